"""ScaNN's sweep in the report: the numbers in words, and dots where the numbers are."""

import re

import pytest
import report_fixture

from ilias_jax.report.document import to_plain
from ilias_jax.report.html import page
from ilias_jax.report.labels import search_facts, sweep_table
from ilias_jax.report.markdown import to_markdown
from ilias_jax.report.sweep_html import sweep_block


def _point(leaves, recall, rate):
    return {"num_leaves_to_search": leaves, "ann_recall": recall, "queries_per_s": rate}


SWEEP = {
    "num_leaves": 1024,
    "exact_queries_per_s": 200.0,
    "points": [_point(10, 0.9, 4000.0), _point(2000, 1.0, 1000.0)],
}


def _document(sweep=SWEEP):
    document = report_fixture.document()
    document["search"]["sweep"] = {"image_to_image": sweep}
    document["search"]["map_minus_exact"] = {"image_to_image": -0.1234}
    return to_plain(document)


def test_the_table_names_every_point_and_exact_search():
    assert sweep_table(SWEEP, {"k": 1000}) == [
        ["search", "ANN recall@1000, %", "queries/s", "times exact"],
        ["ScaNN, 10 of 1,024 leaves", "90.00", "4,000", "20.00"],
        ["ScaNN, 2,000 of 1,024 leaves", "100.00", "1,000", "5.00"],
        ["exact", "100.00", "200", "1.00"],
    ]


def test_the_map_beside_exact_is_signed_and_the_sweep_is_no_fact():
    facts = dict(search_facts(_document()["search"]))
    assert facts["mAP@1000 of ScaNN minus exact, Image-to-image"] == "-0.123"
    assert not [name for name in facts if "sweep" in name or "minus exact" in name.lower()[:5]]


def test_both_pages_show_it():
    document = _document()
    assert "| ScaNN, 10 of 1,024 leaves | 90.00 | 4,000 | 20.00 |" in to_markdown(document)
    html = page(document, [])
    assert "10 leaves: ANN recall 90.00 %, 4,000 queries/s" in html
    assert "What ScaNN misses" not in page(to_plain(report_fixture.document()), [])


def test_dots_stand_where_their_numbers_are():
    markup = str(sweep_block(_document()["search"]))
    dots = re.findall(r'<circle cx="([\d.]+)%" cy="([\d.]+)"', markup)
    assert [float(x) for x, _ in dots] == [0.0, 100.0]  # the axis begins at 90 %
    heights = {
        text: float(y) + 4
        for y, text in re.findall(r'y="([\d.]+)" class="start">([\d,]+)<', markup)
    }
    low, high = heights["100"], heights["10,000"]
    # By powers of ten: 1,000 in the middle of 100 and 10,000.
    assert float(dots[1][1]) == pytest.approx((low + high) / 2, abs=0.1)
    assert float(dots[0][1]) < float(dots[1][1])  # faster is higher


@pytest.mark.parametrize(
    "points", [[_point(1, 0.0, 10.0)], [_point(1, 1.0, 100.0), _point(2, 1.0, 100.0)]]
)
def test_one_point_and_equal_points_can_be_drawn(points):
    sweep = {"num_leaves": 2, "exact_queries_per_s": 100.0, "points": points}
    markup = str(sweep_block(_document(sweep)["search"]))
    assert markup.count("<circle") == len(points)
    assert "nan" not in markup and "inf" not in markup
