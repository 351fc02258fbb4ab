"""index.html: the document's numbers, safe text, one file."""

import re
from typing import Any

import jinja2
import pytest
import report_fixture
from report_page_parser import PageParser

from ilias_jax.report import render
from ilias_jax.report.gallery import GalleryEntry
from ilias_jax.report.render import page, to_plain


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    """Returns the document as it is stored."""
    plain: dict[str, Any] = to_plain(report_fixture.document())
    return plain


@pytest.fixture(scope="module")
def text(document: dict[str, Any]) -> str:
    """Returns the page of the whole run."""
    return page(document, report_fixture.gallery())


@pytest.fixture(scope="module")
def parsed(text: str) -> PageParser:
    """Returns the page, read back."""
    return PageParser(text)


def test_frame_of_the_page(parsed: PageParser) -> None:
    assert parsed.find("html")[0].attributes["lang"] == "en"
    assert parsed.find("title")[0].text.startswith("siglip-large-patch16-384 on mini-ilias")
    names = {e.attributes.get("name") for e in parsed.find("meta")}
    assert {"viewport", "color-scheme"} <= names
    policies = [
        e.attributes["content"] for e in parsed.find("meta") if "http-equiv" in e.attributes
    ]
    assert policies == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]
    assert len(parsed.find("h1")) == 1


def test_ids_are_unique_and_links_lead_to_them(parsed: PageParser) -> None:
    ids = [e.attributes["id"] for e in parsed.elements if "id" in e.attributes]
    assert len(ids) == len(set(ids)) > 0
    assert {e.attributes["href"] for e in parsed.find("a")} == {f"#{id_}" for id_ in ids}


def test_the_page_asks_for_nothing(text: str, parsed: PageParser) -> None:
    for element in parsed.elements:
        for name in ("src", "href", "srcset", "data", "action", "poster", "xlink:href"):
            value = element.attributes.get(name)
            assert value is None or value.startswith(("#", "data:")), (element.name, value)
        assert not any(name.startswith("on") for name in element.attributes)
    assert not parsed.find("script")
    style = "".join(e.text for e in parsed.find("style"))
    assert "url(" not in style and "@import" not in style
    assert "http://" not in text and "https://" not in text


def test_headlines_equal_the_document(parsed: PageParser, document: dict[str, Any]) -> None:
    for section, metrics in document["results"].items():
        (card,) = [e for e in parsed.find("article", "card") if e.has_class(section)]
        assert f"{metrics['map@1000']:.2f} % mAP@1000" in card.text
        low, high = metrics["ci95"]
        assert f"95 % interval {low:.2f}–{high:.2f} %" in card.text
        (table,) = parsed.inside(card, "table")
        low, high = metrics["intervals"]["oracle"]["oracle"]
        assert parsed.rows(table)[2] == [
            "oracle",
            "",
            f"{metrics['oracle']:.2f}{low:.2f}–{high:.2f}",
        ]


def test_the_two_results_are_never_averaged() -> None:
    document = report_fixture.document()
    for section, value in (("image_to_image", 11.11), ("text_to_image", 33.33)):
        document["results"][section]["map@1000"] = value
    assert "22.22" not in page(to_plain(document), [])


def test_published_numbers_stand_beside_ours(parsed: PageParser) -> None:
    (table,) = parsed.find("table", "published")
    assert parsed.rows(table)[1] == [
        "Image-to-imagemini-ILIAS, without linear adaptation",
        "24.2 (secondary)",
        "23.46",
        "-0.74-2.87 to +1.50",
    ]
    words = " ".join(e.text for e in parsed.find("p", "muted"))
    assert "inside our 95 % interval" in words and "uncertain: quoted elsewhere" in words
    assert "Text-to-image: not comparable with the published table" in words


def test_a_number_outside_of_our_interval_is_called_so() -> None:
    document = report_fixture.document()
    document["published"]["image_to_image"]["inside_ci95"] = False
    assert "lies outside our 95 % interval" in page(to_plain(document), [])


@pytest.mark.parametrize("group", ["scale", "clutter", "categories", "subcategories"])
def test_group_tables_equal_the_document(
    parsed: PageParser, document: dict[str, Any], group: str
) -> None:
    header = {"scale": "Object area", "clutter": "Clutter", "categories": "Category"}
    for section, metrics in document["results"].items():
        tables = [t for t in parsed.find("table", "bars") if t.ancestors[-1].has_class(section)]
        (rows,) = [
            parsed.rows(t)
            for t in tables
            if parsed.rows(t)[0][0] == header.get(group, "Subcategory")
        ]
        expected = set()
        for key, value in metrics[group].items():
            low, high = metrics["intervals"][group][key]
            count = metrics["counts"][group][key]
            expected.add((f"{value:.1f}{low:.1f}–{high:.1f}", f"{count:,}"))
        assert {(row[2], row[3]) for row in rows[1:]} == expected
        assert len(rows) == 1 + len(metrics[group])


def test_dataset_counts_and_their_meaning_are_prominent(parsed: PageParser) -> None:
    (note,) = parsed.find("p", "warning")
    assert "1,250,000 distractors" in note.text
    assert note.ancestors[-1].attributes["id"] == "results"
    (counts,) = parsed.find("dl", "counts")
    for number in ("1,232", "1,000", "4,715", "1,250,000", "1,254,715"):
        assert number in counts.text


def test_time_is_split_and_recall_is_ann_recall(parsed: PageParser) -> None:
    (table,) = parsed.find("table", "times")
    rows = {row[0]: row[1:] for row in parsed.rows(table)}
    assert rows["embed images"] == ["25.1 s", "2 h 15 min", "614 images/s5,005,947 items"]
    assert rows["Total, by the clock"] == ["2 h 21 min"]
    names = {e.text for e in parsed.find("dt")}
    assert "ANN recall@1000 of ScaNN against exact, Text-to-image" in names
    assert "97.04 %" in {e.text for e in parsed.find("dd")}


def test_hash_commit_and_versions_are_there_in_full(
    parsed: PageParser, document: dict[str, Any]
) -> None:
    values = {e.text for e in parsed.find("dd")}
    assert document["model"]["sha256"] in values
    assert document["manifest"]["commit"] in values
    assert {"bfloat16", "0.10.2", "256"} <= values


def test_gallery_marks_positives_by_class_and_words(parsed: PageParser) -> None:
    results = [r for entry in report_fixture.gallery() for r in entry.results]
    tiles = parsed.find("li", "result")
    assert len(tiles) == len(results)
    for tile, result in zip(tiles, results, strict=True):
        assert tile.has_class("positive") == result.is_positive
        assert ("✓ positive" in tile.text) == result.is_positive
        assert ("✗ other" in tile.text) != result.is_positive
        assert f"#{result.rank}" in tile.text and f"{result.score:.3f}" in tile.text
        assert result.image_id in tile.text
    assert all(e.attributes["alt"] for e in parsed.find("img"))


def test_gallery_box_is_in_percent_of_the_picture() -> None:
    picture = report_fixture.picture(0, (320, 240))
    picture = type(picture)(picture.jpeg, ((80, 24, 160, 60),))
    entry = GalleryEntry("image_to_image", "best", "q/query/Q.jpg", None, picture, 50.0, 1, ())
    parsed = PageParser(page({}, [entry]))
    (svg,) = parsed.find("svg", "boxes")
    over = parsed.inside(svg, "rect", "over")[0].attributes
    place = [over[name] for name in ("x", "y", "width", "height")]
    assert place == ["25.00%", "10.00%", "50.00%", "25.00%"]


def test_a_broken_picture_shows_its_reason(parsed: PageParser) -> None:
    (tile,) = parsed.find("div", "broken")
    assert "truncated" in tile.text


def test_hostile_text_stays_text(text: str, parsed: PageParser) -> None:
    assert report_fixture.HOSTILE in {e.text for e in parsed.find("blockquote")}
    assert report_fixture.HOSTILE_ID in {e.text for e in parsed.find("code")}
    assert "<script" not in text


def test_hostile_names_in_every_text_of_the_document() -> None:
    def spoil(value: Any) -> Any:
        if isinstance(value, dict):
            keep = ("results",)
            return {k: value[k] if k in keep else spoil(value[k]) for k in value}
        return report_fixture.HOSTILE if isinstance(value, str) else value

    document = spoil(report_fixture.document())
    document["results"]["image_to_image"]["categories"] = {report_fixture.HOSTILE: 5.0}
    document["search"]["</dt><script>"] = 1
    document["timings"]["stages"]["<b onclick=x>"] = {"compile_s": 1.0, "steady_s": 1.0}
    parsed = PageParser(page(to_plain(document), report_fixture.gallery(1, 2)))
    assert not parsed.find("script")
    assert not [e for e in parsed.elements for name in e.attributes if name.startswith("on")]
    assert report_fixture.HOSTILE in parsed.find("h1")[0].text


def test_control_characters_cannot_reorder_or_break_the_page() -> None:
    entry = GalleryEntry("text_to_image", "best", "a\u202egpj\x00\ud800", "t", None, 1.0, 1, ())
    assert "a\ufffdgpj\ufffd\ufffd" in page({}, [entry])
    page({}, [entry]).encode("utf-8")


@pytest.mark.parametrize("gone", ["image_to_image", "text_to_image"])
@pytest.mark.parametrize("how", ["absent", "null"])
def test_a_missing_section_is_left_out(gone: str, how: str) -> None:
    document = report_fixture.document()
    document["results"][gone] = None
    if how == "absent":
        del document["results"][gone]
    parsed = PageParser(page(to_plain(document), []))
    assert len(parsed.find("article", "card")) == 1
    assert not [e for e in parsed.elements if e.has_class(gone)]


def test_no_results_at_all_is_said() -> None:
    parsed = PageParser(page({"results": {}}, []))
    assert parsed.find("p", "warning")[0].text == "This run holds no results."


def test_page_with_a_full_gallery_is_below_two_megabytes(text: str) -> None:
    assert len(text.encode()) < 2_000_000


def _charts() -> Any:
    return render._HTML.get_template("charts.jinja").module


def test_bar_and_whisker_are_drawn_where_the_numbers_are() -> None:
    drawn = _charts().bar(20.0, (15.0, 30.0), 40)
    assert 'width="50.00%" height="14" class="bar"' in drawn
    assert '<line x1="37.50%" x2="75.00%" y1="10" y2="10" class="whisker">' in drawn
    assert "whisker" not in _charts().bar(20.0, None, 40)


def test_compile_time_stands_before_steady_time_on_one_axis() -> None:
    drawn = _charts().stacked_bar(1.0, 3.0, 8.0)
    assert '<rect x="0" y="0" width="12.50%" height="8" class="compile">' in drawn
    assert '<rect x="12.50%" y="0" width="37.50%" height="8" class="bar">' in drawn


@pytest.mark.parametrize(("high", "expected"), [(0, 10), (10, 10), (10.1, 20), (100, 100)])
def test_axis_holds_the_highest_value(high: float, expected: int) -> None:
    assert (
        render.axis_maximum({"image_to_image": {"scale": {"a": 0.0, "b": high}}}, "scale")
        == expected
    )


def test_axis_holds_intervals_and_is_shared_by_all_but_subcategories() -> None:
    results = {
        "image_to_image": {"scale": {"a": 5.0}, "intervals": {"scale": {"a": [1.0, 31.0]}}},
        "text_to_image": {"clutter": {"b": 12.0}, "subcategories": {"c": 71.0}},
    }
    for group in ("scale", "clutter", "categories"):
        assert render.axis_maximum(results, group) == 40
    assert render.axis_maximum(results, "subcategories") == 80


def test_histogram_counts_every_query_once() -> None:
    aps = dict(enumerate([0.0, 0.0, 4.99, 5.0, 50.0, 99.9, 100.0]))
    drawn = _charts().histogram_chart(aps, 37, "")
    titles = re.findall(r"<title>AP (\d+) to \d+ %: (\d+) queries</title>", drawn)
    counts = {int(low): int(count) for low, count in titles if count != "0"}
    assert counts == {0: 3, 5: 1, 50: 1, 95: 2}
    assert len(titles) == 20
    assert 'x="0.30%" y="18.0" width="4.40%" height="110.0"' in drawn  # the fullest bin
    assert '<line x1="37.00%" x2="37.00%" y1="18" y2="128" class="mean">' in drawn


def test_a_name_that_a_template_does_not_know_is_an_error() -> None:
    with pytest.raises(jinja2.UndefinedError):
        render._HTML.from_string("{{ labels.no_such_thing }}").render()
