"""The published numbers beside ours on the page, or why none may stand there."""

from collections.abc import Mapping
from typing import Any

from ilias_jax.report import labels
from ilias_jax.report.markup import Markup, join, tag


def published_block(published: Mapping[str, Mapping[str, Any]]) -> Markup:
    """Returns a table of the sections that have a published number, and a sentence for each."""
    if not published:
        return Markup("")
    rows = [_row(section, entry) for section, entry in published.items() if entry["comparable"]]
    header = [tag("th", "", scope="col")]
    for name in ("Published", "Ours", "Difference"):
        header.append(tag("th", f"{name}, %", scope="col", class_="number"))
    table = tag("table", tag("thead", tag("tr", *header)), tag("tbody", *rows), class_="published")
    sentences = [
        tag("p", sentence, class_="muted") for sentence in labels.published_sentences(published)
    ]
    heading = tag("h3", "Beside the published table")
    return join(heading, table if rows else None, *sentences)


def _row(section: str, entry: Mapping[str, Any]) -> Markup:
    name, number = labels.SECTION_NAMES[section], labels.published_number(entry)
    interval = tag("small", labels.signed_interval(entry["difference_ci95"]))
    return tag(
        "tr",
        tag("th", name, tag("small", labels.published_setting(entry)), scope="row"),
        tag("td", tag("b", number), class_="number"),
        tag("td", tag("b", labels.percent(entry["ours"], 2)), class_="number"),
        tag("td", tag("b", f"{entry['difference']:+.2f}"), interval, class_="number"),
    )
