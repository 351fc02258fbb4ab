"""The gallery of the page: best and worst queries, their top results, boxes on the pictures."""

from collections.abc import Sequence

from ilias_jax.report import labels
from ilias_jax.report.gallery import GROUPS, SECTIONS, GalleryEntry, GalleryResult, Picture
from ilias_jax.report.markup import Markup, join, tag
from ilias_jax.report.thumbnails import Placeholder, thumbnail


def gallery_block(gallery: Sequence[GalleryEntry]) -> Markup:
    """Returns all entries under their section and group, in the order given."""
    if not gallery:
        return Markup("")
    parts: list[Markup] = [_legend()]
    for section in SECTIONS:
        for group in GROUPS:
            chosen = [e for e in gallery if (e.section, e.group) == (section, group)]
            if chosen:
                title = f"{labels.SECTION_NAMES[section]}: {group} queries"
                parts += [tag("h3", title), *(_entry(entry) for entry in chosen)]
    return join(*parts)


def _legend() -> Markup:
    return tag(
        "p",
        tag("span", "✓ positive", class_="verdict positive"),
        " shows the query's object, solid frame. ",
        tag("span", "✗ other", class_="verdict other"),
        " does not, dashed frame. ",
        tag("span", class_="swatch box"),
        " marks the object. Scores are inner products; higher is better.",
        class_="muted legend",
    )


def _entry(entry: GalleryEntry) -> Markup:
    shown = len(entry.results)
    found = sum(result.is_positive for result in entry.results)
    words = (
        f"{found} of {entry.num_positives:,} positives among the first {shown}"
        if shown
        else f"{entry.num_positives:,} positives, no results"
    )
    header = tag(
        "h4",
        tag("b", f"AP {labels.percent(entry.ap)} %"),
        tag("code", entry.query_id),
        tag("span", words, class_="muted"),
    )
    results = tag("ol", *(_result(result) for result in entry.results))
    return tag(
        "article",
        header,
        tag("blockquote", entry.text) if entry.text is not None else None,
        tag("div", _query_picture(entry), results, class_="lists"),
        class_=f"entry {entry.section}",
    )


def _query_picture(entry: GalleryEntry) -> Markup | None:
    if entry.picture is None:
        return None
    picture = _picture(entry.picture, f"Query {entry.query_id}")
    return tag("div", picture, tag("p", tag("b", "query"), class_="rank"), class_="query")


def _result(result: GalleryResult) -> Markup:
    kind, verdict = ("positive", "✓ positive") if result.is_positive else ("other", "✗ other")
    line = tag(
        "p",
        tag("b", f"#{result.rank}"),
        tag("span", f"{result.score:.3f}", title="score"),
        class_="rank",
    )
    return tag(
        "li",
        _picture(result.picture, f"Result {result.rank}, {kind}: {result.image_id}"),
        line,
        tag("p", verdict, class_=f"verdict {kind}"),
        tag("code", result.image_id, title=result.image_id),
        class_=f"result {kind}",
    )


def _picture(picture: Picture, alt: str) -> Markup:
    small = thumbnail(picture)
    if isinstance(small, Placeholder):
        words = tag("span", tag("b", "No picture"), tag("span", small.reason))
        return tag("div", words, class_="tile broken", role="img", aria_label=f"{alt} (no picture)")
    image = tag("img", src=small.data_uri, alt=alt, width=small.width, height=small.height)
    shape = "wide" if small.width >= small.height else "tall"
    style = f"aspect-ratio:{small.width}/{small.height}"
    frame = tag("div", image, _boxes(small.boxes), class_=f"frame {shape}", style=style)
    return tag("div", frame, class_="tile")


def _boxes(boxes: Sequence[tuple[float, float, float, float]]) -> Markup | None:
    """Returns the boxes twice, dark below light, to stand out on any picture."""
    if not boxes:
        return None
    rectangles = []
    for x, y, width, height in boxes:
        place = {"x": f"{x:.2f}%", "y": f"{y:.2f}%"}
        size = {"width": f"{width:.2f}%", "height": f"{height:.2f}%"}
        rectangles += [tag("rect", **place, **size, class_=c) for c in ("under", "over")]
    return tag("svg", *rectangles, class_="boxes", aria_hidden="true")
