"""The report's document: made JSON-able, checked, and read by name."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ilias_jax.report.gallery import SECTIONS

Interval = tuple[float, float]


def to_plain(value: Any, path: str = "document") -> Any:
    """Returns `value` as dicts, lists, str, bool, int, finite float and None.

    Args:
      value: nested mappings, sequences and numpy arrays or scalars.
      path: the key path of `value`, for messages.

    Raises:
      ValueError: a number is NaN or infinite; the message gives its key path.
      TypeError: a key is not a str or a value has no JSON form; the message gives its key path.
    """
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise TypeError(f"{path} has the key {key!r}; keys must be str")
        return {str(key): to_plain(item, f"{path}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(item, f"{path}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{path} is {value!r}; a report holds finite numbers only (or None)")
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{path} is a {type(value).__name__}, which has no JSON form")


def to_json(document: Mapping[str, Any]) -> str:
    """Returns the text of `report.json` for a document that went through `to_plain`."""
    return json.dumps(document, indent=2, allow_nan=False) + "\n"


def section_results(document: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Returns the results that are there, by section, image to image first.

    Raises:
      ValueError: a section of another name, or one without its "map@k" key.
    """
    results = document.get("results") or {}
    unknown = sorted(set(results) - set(SECTIONS))
    if unknown:
        raise ValueError(f"document.results has {unknown}; allowed: {', '.join(SECTIONS)}")
    present = {name: results[name] for name in SECTIONS if results.get(name)}
    for name, metrics in present.items():
        if len(_map_keys(metrics)) != 1:
            raise ValueError(
                f"document.results.{name} must have exactly one key 'map@<k>', has {list(metrics)}"
            )
    return present


def _map_keys(metrics: Mapping[str, Any]) -> list[str]:
    return [key for key in metrics if key.startswith("map@") and key[4:].isdecimal()]


def map_name(metrics: Mapping[str, Any]) -> str:
    """Returns the metric's name as people write it, for example "mAP@1000"."""
    return "mAP@" + _map_keys(metrics)[0][4:]


def map_value(metrics: Mapping[str, Any]) -> float:
    """Returns mAP@k in percent."""
    return float(metrics[_map_keys(metrics)[0]])


def interval_of(metrics: Mapping[str, Any], group: str, key: str) -> Interval | None:
    """Returns the 95 % interval of `metrics[group][key]` in percent, None if there is none."""
    pair: Sequence[float] | None = metrics.get("intervals", {}).get(group, {}).get(key)
    return None if pair is None else (pair[0], pair[1])


def ci95(metrics: Mapping[str, Any]) -> Interval | None:
    """Returns the 95 % interval of mAP@k in percent, None if there is none."""
    pair: Sequence[float] | None = metrics.get("ci95")
    return None if pair is None else (pair[0], pair[1])


def flatten(value: Any, path: str = "") -> list[tuple[str, Any]]:
    """Returns (dotted key, leaf) pairs of nested dicts, in order; lists are leaves."""
    if not isinstance(value, Mapping):
        return [(path, value)]
    pairs = []
    for key, item in value.items():
        pairs += flatten(item, f"{path}.{key}" if path else key)
    return pairs
