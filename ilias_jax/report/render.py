"""Renders and writes a report: `report.json`, `report.md` and one self-contained `index.html`.

The page has no script and makes no request, so that it works from file://. Its charts are inline
SVG without a viewBox: horizontal positions are in percent and vertical ones in pixels, so that a
chart takes any width while its text and strokes keep their size.
"""

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jinja2
import numpy as np
from etils import epath
from markupsafe import Markup

from ilias_jax.files import write_bytes
from ilias_jax.report import labels
from ilias_jax.report.gallery import GROUPS, GalleryEntry, match_figure, thumbnail

# Control characters, lone surrogates and bidirectional overrides: invalid in a page, or able to
# make an id read as another one.
_UNSAFE = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)
_MARKDOWN = re.compile(r"([\\`*_\[\]|#~])")
_NUM_BINS = 20  # of the AP histogram
_SHARED_AXIS = ("scale", "clutter", "categories")


def to_plain(value: Any, path: str = "document") -> Any:
    """Mappings, sequences and numpy values as dict, list, str, bool, int, finite float and None.

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
        return {key: to_plain(item, f"{path}.{key}") for key, item in value.items()}
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


def axis_maximum(results: Mapping[str, labels.Metrics], group: str) -> int:
    """Returns the end of the bars' axis in percent: a multiple of 10, at least 10, at most 100.

    It holds every score and interval of the grouping; scale, clutter and categories share theirs.
    """
    values = [0.0]
    for metrics in results.values():
        for name in _SHARED_AXIS if group in _SHARED_AXIS else (group,):
            for key, value in (metrics.get(name) or {}).items():
                values += [value or 0.0, *(labels.group_interval(metrics, name, key) or ())]
    return min(100, max(10, 10 * math.ceil(max(values) / 10)))


def _position(value: float, maximum: float) -> str:
    """Where `value` lies on an axis from 0 to `maximum`, in percent of its length."""
    return f"{100 * min(max(value / maximum, 0.0), 1.0):.2f}%"


def _histogram(aps: Mapping[str, float]) -> list[int]:
    counts: list[int] = np.histogram(list(aps.values()), _NUM_BINS, (0.0, 100.0))[0].tolist()
    return counts


def _longest_stage(stages: Mapping[str, Mapping[str, Any]]) -> float:
    spans = [(t.get("compile_s") or 0.0) + (t.get("steady_s") or 0.0) for t in stages.values()]
    return max([*spans, 1e-9])


def _leaves(value: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Leaves as they stand in the document: a config must be copied without rounding."""
    pairs = labels.flatten(value)
    return [(key, leaf if isinstance(leaf, str) else json.dumps(leaf)) for key, leaf in pairs]


def _visible(value: Any) -> Any:
    """Returns a template's value with the characters that no page may hold as U+FFFD."""
    text = _UNSAFE.sub("\ufffd", str(value))
    return Markup(text) if isinstance(value, Markup) else text


def _markdown(value: Any) -> Markup:
    """A template's value as one line that is neither markdown nor HTML."""
    if isinstance(value, Markup):
        return value
    flat = " ".join(_visible(value).split())
    flat = flat.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return Markup(_MARKDOWN.sub(r"\\\1", flat))


def _environment(finalize: Callable[[Any], Any]) -> jinja2.Environment:
    """The templates; `finalize` gets every value that they print, before it is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("ilias_jax.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=finalize,
    )
    environment.globals.update(
        labels=labels,
        query_groups=GROUPS,
        thumbnail=thumbnail,
        match_figure=match_figure,
        axis_maximum=axis_maximum,
        position=_position,
        histogram=_histogram,
        longest_stage=_longest_stage,
        leaves=_leaves,
    )
    return environment


_HTML, _MARKDOWN_TEMPLATES = _environment(_visible), _environment(_markdown)


def page(document: Mapping[str, Any], gallery: Sequence[GalleryEntry]) -> str:
    """Returns the text of `index.html` for a document that went through `to_plain`."""
    template = _HTML.get_template("index.html.jinja")
    return template.render(**_context(document), gallery=gallery)


def to_markdown(document: Mapping[str, Any]) -> str:
    """Returns the text of `report.md`, short enough to paste into an issue."""
    return _MARKDOWN_TEMPLATES.get_template("report.md.jinja").render(**_context(document))


def _context(document: Mapping[str, Any]) -> dict[str, Any]:
    names = ("dataset", "model", "published", "rerank", "search", "timings", "manifest")
    context = {name: document.get(name) or {} for name in names}
    model, dataset = (context[name].get("name", f"unnamed {name}") for name in ("model", "dataset"))
    results, allowed = document.get("results") or {}, labels.SECTION_NAMES
    if unknown := sorted(set(results) - set(allowed)):
        raise ValueError(f"document.results has {unknown}; allowed: {', '.join(allowed)}")
    results = {name: results[name] for name in allowed if results.get(name)}
    return {**context, "results": results, "title": f"{model} on {dataset}"}


def write_report(
    directory: epath.PathLike, document: Mapping[str, Any], gallery: Sequence[GalleryEntry]
) -> None:
    """Writes `report.json`, `report.md` and `index.html` into `directory`, making it if need be.

    All three are rendered before the first is written, and each is written to a temporary name and
    renamed, so that a file that exists is a whole one.

    Args:
      directory: where to, local or a bucket.
      document: the run's numbers (keys: dataset, model, results, published, rerank, search,
        timings, manifest), as plain values or numpy ones. Either result may be absent or None.
      gallery: queries with their top results, shown in this order within section and group.

    Raises:
      ValueError: a number is not finite (the message gives its key path) or a result has a name
        that is not known.
      TypeError: a value has no JSON form; the message gives its key path.
      UserError: the system does not take a file.
    """
    plain = to_plain(document)
    files = {
        "report.json": to_json(plain),
        "report.md": to_markdown(plain),
        "index.html": page(plain, gallery),
    }
    for name, text in files.items():
        write_bytes(epath.Path(directory) / name, text.encode("utf-8"))
