"""The report as markdown, compact enough to paste into an issue."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ilias_jax.report import labels
from ilias_jax.report.document import (
    ci95,
    flatten,
    interval_of,
    map_name,
    map_value,
    section_results,
)
from ilias_jax.report.markup import visible

_SPECIAL = re.compile(r"([\\`*_\[\]|#~])")


def _escape(text: str) -> str:
    """Returns text for a table cell: no line break, no markdown, no HTML."""
    flat = " ".join(visible(text).split())
    flat = flat.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _SPECIAL.sub(r"\\\1", flat)


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def summary(document: Mapping[str, Any]) -> str:
    """Returns the run in one line: dataset, model, each result with its interval, size."""
    dataset, model = document.get("dataset") or {}, document.get("model") or {}
    parts = [str(dataset.get("name", "unnamed dataset")), str(model.get("name", "unnamed model"))]
    for section, metrics in section_results(document).items():
        parts.append(
            f"{labels.SECTION_NAMES[section]} {map_name(metrics)} "
            f"{labels.percent(map_value(metrics), 2)} % "
            f"(95 % interval {labels.interval(ci95(metrics), 2)})"
        )
    parts.append(f"{labels.plain(dataset.get('num_distractors'))} distractors")
    return " · ".join(parts)


def to_markdown(document: Mapping[str, Any]) -> str:
    """Returns the text of `report.md` for a document that went through `to_plain`."""
    results = section_results(document)
    blocks = [
        f"**{_escape(summary(document))}**",
        labels.comparability(document.get("dataset") or {})[1],
    ]
    blocks += ["### Results", _results_table(results)] if results else ["No results."]
    blocks += _published(document.get("published") or {})
    for group in labels.GROUPINGS:
        blocks += _grouping(group, results)
    blocks += _search(document.get("search") or {})
    blocks += _timings(document.get("timings") or {})
    for name in ("dataset", "model", "manifest"):
        blocks += _facts(name, document.get(name) or {})
    return "\n\n".join(blocks) + "\n"


def _results_table(results: Mapping[str, Mapping[str, Any]]) -> str:
    rows = []
    for section, metrics in results.items():
        oracle = interval_of(metrics, "oracle", "oracle")
        rows.append(
            [
                f"{labels.SECTION_NAMES[section]} {map_name(metrics)}",
                labels.percent(map_value(metrics), 2),
                labels.interval(ci95(metrics), 2),
                labels.percent(metrics.get("oracle"), 2),
                labels.interval(oracle, 2),
                labels.plain(metrics.get("num_queries")),
            ]
        )
    return _table(["%", "score", "95 % interval", "oracle", "95 % interval", "queries"], rows)


def _published(published: Mapping[str, Mapping[str, Any]]) -> list[str]:
    rows = [
        [
            f"{labels.SECTION_NAMES[section]}, {labels.published_setting(entry)}",
            labels.published_number(entry),
            labels.percent(entry["ours"], 2),
            f"{entry['difference']:+.2f}",
            labels.signed_interval(entry["difference_ci95"]),
        ]
        for section, entry in published.items()
        if entry["comparable"]
    ]
    header = ["%", "published", "ours", "ours - published", "95 % interval"]
    table = [_table(header, rows)] if rows else []
    sentences = [_escape(sentence) for sentence in labels.published_sentences(published)]
    return ["### Beside the published table", *table, *sentences] if published else []


def _grouping(group: str, results: Mapping[str, Mapping[str, Any]]) -> list[str]:
    heading, name, unit, _ = labels.GROUPINGS[group]
    shown = {section: metrics for section, metrics in results.items() if metrics.get(group)}
    if not shown:
        return []
    header = [name]
    for section in shown:
        header += [f"{labels.SECTION_NAMES[section]}, %", "95 % interval", unit]
    rows = []
    for key in labels.group_order(group, shown):
        row = [_escape(labels.group_label(group, key))]
        for metrics in shown.values():
            row += [
                labels.percent(metrics[group].get(key)),
                labels.interval(interval_of(metrics, group, key)),
                labels.plain(metrics.get("counts", {}).get(group, {}).get(key)),
            ]
        rows.append(row)
    table = _table(header, rows)
    if group == "subcategories":
        return [f"<details><summary>{heading}</summary>", table, "</details>"]
    return [f"### {heading}", table]


def _search(search: Mapping[str, Any]) -> list[str]:
    rows = [[_escape(name), _escape(value)] for name, value in labels.search_facts(search)]
    blocks = ["### Search", _table(["", "value"], rows)] if rows else []
    for section, sweep in (search.get("sweep") or {}).items():
        header, *lines = labels.sweep_table(sweep, search)
        blocks += [labels.SECTION_NAMES.get(section, section), _table(header, lines)]
    return blocks


def _timings(timings: Mapping[str, Any]) -> list[str]:
    rows = []
    for stage, time in (timings.get("stages") or {}).items():
        rows.append(
            [
                _escape(labels.words(stage)),
                labels.seconds(time.get("compile_s")),
                labels.seconds(time.get("steady_s")),
                labels.plain(time.get("items")),
                labels.rate(stage, time.get("items_per_s")),
            ]
        )
    if timings.get("total_s") is not None:
        rows.append(["total, by the clock", "", labels.seconds(timings["total_s"]), "", ""])
    header = ["stage", "compile time", "steady time", "items", "throughput"]
    sentences = labels.device_sentences(timings.get("stages") or {})
    return ["### Time", _table(header, rows), *map(_escape, sentences)] if rows else []


def _facts(name: str, facts: Mapping[str, Any]) -> list[str]:
    rows = [[_escape(key), _escape(labels.plain(value))] for key, value in flatten(facts)]
    if not rows:
        return []
    table = _table([name, "value"], rows)
    return [f"<details><summary>{name.capitalize()}</summary>", table, "</details>"]
