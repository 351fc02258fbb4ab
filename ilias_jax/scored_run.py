"""The scores of a finished run, query by query, read back from its files.

A run is named by its workdir, by its report folder, by a `report.json`, or by a JSON result with
the official keys `queries` and `aps` (`ilias-jax evaluate --output`), one result or one a section.
"""

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import Any

from etils import epath

from ilias_jax.errors import UserError

SECTIONS = ("image_to_image", "text_to_image")
_DATABASE = ("name", "subset", "num_positives", "num_distractors")
_EXPECTED = "expected a workdir, a report folder, a report.json or a result of `ilias-jax evaluate`"


@dataclasses.dataclass(frozen=True)
class SectionScores:
    """The scores of one kind of query.

    Attributes:
        aps: query id -> AP@k in percent.
        group_aps: "scale" or "clutter" -> group -> query id -> AP@k within the group, for queries
            with a positive in it; empty where the file has none.
    """

    aps: Mapping[str, float]
    group_aps: Mapping[str, Mapping[str, Mapping[str, float]]]


@dataclasses.dataclass(frozen=True)
class ScoredRun:
    """One run.

    Attributes:
        place: the file.
        model: name of the model, None if the file does not say.
        k: the cut, None likewise.
        database: what was searched (name, subset, numbers of positives and distractors), None
            likewise.
        sections: by section.
        objects: object -> (coarse, mid) category; empty likewise.
    """

    place: str
    model: str | None
    k: int | None
    database: Mapping[str, Any] | None
    sections: Mapping[str, SectionScores]
    objects: Mapping[str, tuple[str, str]]


def read_scored_run(path: epath.PathLike) -> ScoredRun:
    """Reads a run's scores.

    Raises:
        UserError: there is no such file, or it holds no scores by query.
    """
    place = _find(epath.Path(path))
    try:
        document = json.loads(place.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{place} is no JSON ({error}); {_EXPECTED}") from error
    try:
        return _parse(str(place), document)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{place} holds no scores by query ({error!r}); {_EXPECTED}") from error


def _find(path: epath.Path) -> epath.Path:
    """The file of a run that is named by a file or a folder."""
    if not path.exists():
        raise UserError(f"{path} does not exist; {_EXPECTED}")
    if not path.is_dir():
        return path
    for found in (path / "report.json", path / "report" / "report.json"):
        if found.exists():
            return found
    raise UserError(f"{path} holds neither report.json nor report/report.json; {_EXPECTED}")


def _parse(place: str, document: Mapping[str, Any]) -> ScoredRun:
    results = document.get("results") or _official(document)
    sections = {name: _section(results[name]) for name in SECTIONS if results.get(name)}
    if not sections:
        raise ValueError(f"neither {' nor '.join(SECTIONS)}")
    dataset = document.get("dataset")
    return ScoredRun(
        place=place,
        model=(document.get("model") or {}).get("name"),
        k=_cut(document, results),
        database=None if dataset is None else {key: dataset.get(key) for key in _DATABASE},
        sections=sections,
        objects={name: (path[0], path[1]) for name, path in document.get("objects", {}).items()},
    )


def _official(document: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Results with the official keys by section, whether the file holds one or one a section."""
    one = "aps" in document and "queries" in document
    results = [document] if one else [v for v in document.values() if isinstance(v, Mapping)]
    return {
        "text_to_image" if str(r["queries"][0]).endswith(".txt") else "image_to_image": r
        for r in results
        if r.get("queries")
    }


def _cut(document: Mapping[str, Any], results: Mapping[str, Mapping[str, Any]]) -> int | None:
    """k of mAP@k: from the name of the metric, or from a key of its own."""
    for result in results.values():
        for key in result or ():
            if key.startswith("map@"):
                return int(key.removeprefix("map@"))
        if result and "k" in result:
            return int(result["k"])
    return int(document["k"]) if "k" in document else None


def _section(result: Mapping[str, Any]) -> SectionScores:
    """Scores of one result; `aps` is a mapping by query, or a list along `queries`."""
    aps = result["aps"]
    queries = list(aps) if isinstance(aps, Mapping) else result["queries"]
    values = list(aps.values()) if isinstance(aps, Mapping) else aps
    if len(set(queries)) != len(queries):
        raise ValueError(f"{len(queries) - len(set(queries))} queries come twice")
    groups = {
        section: {key: _along(queries, row) for key, row in keys.items()}
        for section, keys in (result.get("group_aps") or {}).items()
    }
    scores = _along(queries, values)
    if len(scores) != len(queries) or not scores:
        raise ValueError("a query has no AP, or there is no query")
    return SectionScores(scores, groups)


def _along(queries: list[str], values: list[float | None]) -> dict[str, float]:
    """Query -> AP, without the queries that have none."""
    found = {q: float(v) for q, v in zip(queries, values, strict=True) if v is not None}
    bad = [query for query, value in found.items() if not 0 <= value <= 100.000001]
    if bad or not all(map(math.isfinite, found.values())):
        raise ValueError(f"AP of {bad[:1]} is not in [0, 100] percent")
    return found
