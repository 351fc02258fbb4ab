"""The facts of the page: dataset counts, time, search, model, manifest."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ilias_jax.report import labels
from ilias_jax.report.document import flatten
from ilias_jax.report.figures import stacked_bar
from ilias_jax.report.markup import Markup, join, tag
from ilias_jax.report.sweep_html import sweep_block


def _definitions(pairs: Sequence[tuple[str, str]], class_: str = "facts") -> Markup:
    items = [tag("div", tag("dt", name), tag("dd", value)) for name, value in pairs]
    return tag("dl", *items, class_=class_)


def dataset_block(dataset: Mapping[str, Any]) -> Markup:
    """Returns the dataset's counts; the database is positives then distractors."""
    if not dataset:
        return Markup("")
    pairs = [(labels.words(key.removeprefix("num_")), value) for key, value in dataset.items()]
    positives, distractors = dataset.get("num_positives"), dataset.get("num_distractors")
    if positives is not None and distractors is not None:
        pairs.append(("database = positives + distractors", positives + distractors))
    return _definitions([(name, labels.plain(value)) for name, value in pairs], "counts")


def run_block(document: Mapping[str, Any]) -> Markup:
    """Returns the time of each stage, compile time apart, and how the search was done."""
    search, timings = document.get("search") or {}, document.get("timings") or {}
    blocks = []
    if timings.get("stages") or timings.get("total_s") is not None:
        sentences = labels.device_sentences(timings.get("stages") or {})
        notes = [tag("p", sentence) for sentence in sentences]
        blocks.append(tag("div", tag("h3", "Time"), _time_table(timings), *notes))
    if search:
        facts = _definitions(labels.search_facts(search))
        blocks.append(tag("div", tag("h3", "Search"), facts))
    pair = tag("div", *blocks, class_="pair") if blocks else Markup("")
    return join(pair, sweep_block(search))


def _time_table(timings: Mapping[str, Any]) -> Markup:
    stages = timings.get("stages") or {}
    spans = [(t.get("compile_s") or 0.0) + (t.get("steady_s") or 0.0) for t in stages.values()]
    longest = max([*spans, 1e-9])
    rows = [_time_row(stage, time, longest) for stage, time in stages.items()]
    total = timings.get("total_s")
    foot = tag(
        "tr",
        tag("th", "Total, by the clock", scope="row", colspan=3),
        tag("td", labels.seconds(total), class_="number"),
    )
    header = [tag("th", "Stage", scope="col")]
    for name in ("Compile", "Steady", "Throughput"):
        header.append(tag("th", name, scope="col", class_="number"))
    caption = tag(
        "caption",
        tag("span", class_="swatch compile"),
        " compile time ",
        tag("span", class_="swatch"),
        " steady time",
    )
    parts = [caption, tag("thead", tag("tr", *header)), tag("tbody", *rows)]
    return tag("table", *parts, None if total is None else tag("tfoot", foot), class_="times")


def _time_row(stage: str, time: Mapping[str, Any], longest: float) -> Markup:
    compile_s, steady_s = time.get("compile_s"), time.get("steady_s")
    items = time.get("items")
    small = None if items is None else tag("small", f"{items:,} items")
    chart = stacked_bar(compile_s or 0.0, steady_s or 0.0, longest)
    return tag(
        "tr",
        tag("th", labels.words(stage), chart, scope="row"),
        tag("td", labels.seconds(compile_s), class_="number"),
        tag("td", labels.seconds(steady_s), class_="number"),
        tag("td", labels.rate(stage, time.get("items_per_s")), small, class_="number"),
    )


def model_block(model: Mapping[str, Any]) -> Markup:
    """Returns what the model is, with its checkpoint and hash in full."""
    pairs = [(labels.words(key), labels.plain(value)) for key, value in flatten(model)]
    return _definitions(pairs) if pairs else Markup("")


def manifest_block(manifest: Mapping[str, Any]) -> Markup:
    """Returns all it takes to run this again, folded away."""
    if not manifest:
        return Markup("")
    parts = []
    for key, value in manifest.items():
        if isinstance(value, Mapping):
            parts += [tag("h3", labels.words(key)), _definitions(_leaves(value))]
    scalars = {key: value for key, value in manifest.items() if not isinstance(value, Mapping)}
    summary = tag("summary", "Config, commit, versions, machine, date")
    return tag("details", summary, join(_definitions(_leaves(scalars)), *parts))


def _leaves(value: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Returns leaves as they stand in the document: a config must be copied without rounding."""
    return [
        (key, leaf if isinstance(leaf, str) else json.dumps(leaf)) for key, leaf in flatten(value)
    ]
