"""The numbers of the page: headline scores, bars by group, AP histograms."""

from collections.abc import Mapping, Sequence
from typing import Any

from ilias_jax.report import labels
from ilias_jax.report.document import ci95, interval_of, map_name, map_value
from ilias_jax.report.figures import axis_maximum, bar, histogram
from ilias_jax.report.markup import Markup, join, tag

Results = Mapping[str, Mapping[str, Any]]


def headline_block(results: Results, dataset: Mapping[str, Any]) -> Markup:
    """Returns one card a result: score, interval, oracle; and what they may be compared with."""
    if not results:
        return tag("p", "This run holds no results.", class_="note warning")
    official, sentence = labels.comparability(dataset)
    cards = [_card(section, metrics) for section, metrics in results.items()]
    note = tag("p", sentence, class_="note" if official else "note warning")
    return join(tag("div", *cards, class_="pair"), note)


def _card(section: str, metrics: Mapping[str, Any]) -> Markup:
    name, score = map_name(metrics), map_value(metrics)
    oracle = metrics.get("oracle")
    rows = [_score_row(name, score, ci95(metrics))]
    if oracle is not None:
        rows.append(_score_row("oracle", oracle, interval_of(metrics, "oracle", "oracle")))
    header = tag(
        "tr",
        tag("th", "Score", scope="col"),
        _axis_header(100),
        tag("th", "%", tag("small", "95 % interval"), scope="col", class_="number"),
    )
    return tag(
        "article",
        tag("h3", labels.SECTION_NAMES[section]),
        tag("p", tag("strong", labels.percent(score, 2)), " % ", name, class_="big"),
        tag("p", _headline_words(metrics), class_="muted"),
        tag("table", tag("thead", header), tag("tbody", *rows), class_="bars"),
        class_=f"card {section}",
    )


def _headline_words(metrics: Mapping[str, Any]) -> str:
    words = f"95 % interval {labels.interval(ci95(metrics), 2)} %, resampled by object"
    if metrics.get("num_queries") is not None:
        words += f" · {metrics['num_queries']:,} queries"
    return f"{words}. Oracle: what a perfect reordering of each list would reach."


def _score_row(name: str, value: float, interval: Sequence[float] | None) -> Markup:
    return tag(
        "tr",
        tag("th", name, scope="row"),
        tag("td", bar(value, interval, 100), class_="chart"),
        _number_cell(value, interval, 2),
    )


def _number_cell(value: float | None, interval: Sequence[float] | None, digits: int) -> Markup:
    small = None if interval is None else tag("small", labels.interval(interval, digits))
    return tag("td", tag("b", labels.percent(value, digits)), small, class_="number")


def _axis_header(maximum: int) -> Markup:
    ends = tag("span", tag("span", "0"), tag("span", f"{maximum} %"), class_="axis-ends")
    return tag("th", ends, scope="col", class_="chart", aria_label=f"bar, 0 to {maximum} %")


def groups_block(results: Results) -> Markup:
    """Returns a figure a grouping and result, and the AP histograms."""
    if not results:
        return Markup("")
    shared = _maximum(results, ("scale", "clutter", "categories"))
    blocks = [_histograms(results)]
    for group in labels.GROUPINGS:
        own_axis = group == "subcategories"
        maximum = _maximum(results, (group,)) if own_axis else shared
        shown = {section: metrics for section, metrics in results.items() if metrics.get(group)}
        if not shown:
            continue
        heading, note = labels.GROUPINGS[group][0], labels.GROUPINGS[group][3]
        figures = [
            _group_figure(section, group, metrics, labels.group_order(group, shown), maximum)
            for section, metrics in shown.items()
        ]
        text = tag("p", note, " Whiskers: 95 % intervals.", class_="muted")
        pair = tag("div", *figures, class_="pair")
        if own_axis:
            blocks.append(tag("details", tag("summary", tag("h3", heading)), text, pair))
        else:
            blocks.append(join(tag("h3", heading), text, pair))
    return join(*blocks)


def _maximum(results: Results, groups: Sequence[str]) -> int:
    values = []
    for metrics in results.values():
        for group in groups:
            for key, value in (metrics.get(group) or {}).items():
                high = interval_of(metrics, group, key)
                values += [value or 0.0, high[1] if high else 0.0]
    return axis_maximum(values)


def _group_figure(
    section: str, group: str, metrics: Mapping[str, Any], keys: Sequence[str], maximum: int
) -> Markup:
    _, column, unit, _ = labels.GROUPINGS[group]
    header = tag(
        "tr",
        tag("th", column, scope="col"),
        _axis_header(maximum),
        tag("th", map_name(metrics), scope="col", class_="number"),
        tag("th", unit, scope="col", class_="number count"),
    )
    rows = [_group_row(group, key, metrics, maximum) for key in keys if key in metrics[group]]
    caption = tag("caption", labels.SECTION_NAMES[section])
    table = tag("table", caption, tag("thead", header), tag("tbody", *rows), class_="bars")
    return tag("div", table, class_=section)


def _group_row(group: str, key: str, metrics: Mapping[str, Any], maximum: int) -> Markup:
    value, interval = metrics[group][key], interval_of(metrics, group, key)
    count = metrics.get("counts", {}).get(group, {}).get(key)
    return tag(
        "tr",
        tag("th", labels.group_label(group, key), scope="row"),
        tag("td", None if value is None else bar(value, interval, maximum), class_="chart"),
        _number_cell(value, interval, 1),
        tag("td", labels.plain(count), class_="number count"),
    )


def _histograms(results: Results) -> Markup:
    figures = [
        _histogram_figure(section, metrics)
        for section, metrics in results.items()
        if metrics.get("aps")
    ]
    if not figures:
        return Markup("")
    return join(tag("h3", "AP of the queries"), tag("div", *figures, class_="pair"))


def _histogram_figure(section: str, metrics: Mapping[str, Any]) -> Markup:
    aps = list(metrics["aps"].values())
    zero = sum(ap == 0 for ap in aps)
    name = labels.SECTION_NAMES[section]
    words = (
        f"{zero:,} of {len(aps):,} queries ({100 * zero / len(aps):.1f} %) found no positive "
        f"(AP 0). Dashed line: {map_name(metrics)}, {labels.percent(map_value(metrics), 2)} %."
    )
    label = f"Histogram of {name} AP in 20 bins of 5 percent. {words}"
    caption = tag("figcaption", tag("b", name), " ", words)
    return tag("figure", histogram(aps, map_value(metrics), label), caption, class_=section)
