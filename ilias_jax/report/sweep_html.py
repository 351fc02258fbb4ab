"""ScaNN's sweep on the page: ANN recall@k against queries per second, a figure and a table."""

import math
from collections.abc import Mapping
from typing import Any

from ilias_jax.report import labels
from ilias_jax.report.markup import Markup, join, tag

_TOP, _BOTTOM, _HEIGHT = 22, 172, 196
_RADIUS = 4


def sweep_block(search: Mapping[str, Any]) -> Markup:
    """Returns figure and table of every section that has a sweep; nothing without one."""
    figures = []
    for section, sweep in (search.get("sweep") or {}).items():
        name = labels.SECTION_NAMES.get(section, section)
        words = f" upwards: queries per second; rightwards: ANN recall@{search.get('k', 'k')}."
        caption = tag("figcaption", tag("b", name), words)
        picture = _figure(section, sweep, search)
        figures.append(tag("figure", picture, caption, _table(sweep, search), class_=section))
    if not figures:
        return Markup("")
    return join(tag("h3", "What ScaNN misses, and how fast it is"), *figures)


def _figure(section: str, sweep: Mapping[str, Any], search: Mapping[str, Any]) -> Markup:
    """Returns ANN recall@k from left to right, queries per second upwards by powers of ten."""
    points, exact = sweep["points"], sweep["exact_queries_per_s"]
    rates = [exact, *(point["queries_per_s"] for point in points)]
    low, high = math.floor(math.log10(min(rates))), math.ceil(math.log10(max(rates)))
    low -= low == high
    least = min(point["ann_recall"] for point in points)
    start = min(0.9, math.floor(10 * least) / 10)  # of the axis, which ends at 1

    def x(recall: float) -> str:
        return f"{100 * (recall - start) / (1 - start):.2f}%"

    def y(rate: float) -> str:
        return f"{_BOTTOM - (_BOTTOM - _TOP) * (math.log10(rate) - low) / (high - low):.1f}"

    decades = [10.0**power for power in range(low, high + 1)]
    lines = [_horizontal(y(rate), "grid") for rate in decades]
    texts = [
        tag("text", f"{rate:,g}", x=0, y=float(y(rate)) - 4, class_="start") for rate in decades
    ]
    texts += [
        tag("text", f"exact: {exact:,.0f}", x="100%", y=float(y(exact)) - 4, class_="end"),
        *_recall_labels(start, x),
    ]
    pairs = zip(points, points[1:], strict=False)
    curve = [
        tag(
            "line",
            **{"x1": x(a["ann_recall"]), "x2": x(b["ann_recall"])},
            **{"y1": y(a["queries_per_s"]), "y2": y(b["queries_per_s"])},
            class_="whisker",
        )
        for a, b in pairs
    ]
    dots = [
        tag(
            "circle",
            tag("title", _words(point)),
            cx=x(point["ann_recall"]),
            cy=y(point["queries_per_s"]),
            r=_RADIUS,
            class_="bar",
        )
        for point in points
    ]
    name = labels.SECTION_NAMES.get(section, section)
    label = f"{name}: queries per second against ANN recall@{search.get('k', 'k')}. " + "; ".join(
        map(_words, points)
    )
    parts = [*lines, _horizontal(y(exact), "mean"), *texts, *curve, *dots]
    return tag("svg", *parts, class_="histogram", height=_HEIGHT, role="img", aria_label=label)


def _horizontal(y: str, class_: str) -> Markup:
    return tag("line", x1=0, x2="100%", y1=y, y2=y, class_=class_)


def _recall_labels(start: float, x: Any) -> list[Markup]:
    """Returns five labels from the start of the axis to 100 %."""
    made = []
    for step in range(5):
        recall = start + (1 - start) * step / 4
        anchor = {0: "start", 4: "end"}.get(step, "middle")
        made.append(tag("text", f"{100 * recall:.4g} %", x=x(recall), y=_HEIGHT - 6, class_=anchor))
    return made


def _words(point: Mapping[str, Any]) -> str:
    return (
        f"{point['num_leaves_to_search']:,} leaves: ANN recall "
        f"{labels.percent(100 * point['ann_recall'], 2)} %, {point['queries_per_s']:,.0f} queries/s"
    )


def _table(sweep: Mapping[str, Any], search: Mapping[str, Any]) -> Markup:
    header, *rows = labels.sweep_table(sweep, search)
    heads = [
        tag("th", name, scope="col", class_="number" if i else None)
        for i, name in enumerate(header)
    ]
    body = [
        tag(
            "tr",
            tag("th", row[0], scope="row"),
            *(tag("td", cell, class_="number") for cell in row[1:]),
        )
        for row in rows
    ]
    return tag("table", tag("thead", tag("tr", *heads)), tag("tbody", *body))
