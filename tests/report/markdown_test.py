"""report.md: the document's numbers in tables."""

import report_fixture

from ilias_jax.report.render import to_markdown, to_plain


def rows(markdown: str) -> dict[str, list[str]]:
    """Returns the cells of every table row by first cell."""
    lines = [line for line in markdown.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    return {row[0]: row[1:] for row in cells}


def test_first_line_is_the_run_in_one_line() -> None:
    document = to_plain(report_fixture.document())
    first = to_markdown(document).splitlines()[0]
    for section, name in (("image_to_image", "Image-to-image"), ("text_to_image", "Text-to-image")):
        metrics = document["results"][section]
        low, high = metrics["ci95"]
        assert (
            f"{name} mAP@1000 {metrics['map@1000']:.2f} % (95 % interval {low:.2f}–{high:.2f})"
            in first
        )
    assert "1,250,000 distractors" in first


def test_result_rows_hold_score_and_oracle_with_their_intervals() -> None:
    document = to_plain(report_fixture.document())
    row = rows(to_markdown(document))["Text-to-image mAP@1000"]
    metrics = document["results"]["text_to_image"]
    oracle = metrics["intervals"]["oracle"]["oracle"]
    expected = [metrics["map@1000"], *metrics["ci95"], metrics["oracle"], *oracle]
    assert row == [
        f"{expected[0]:.2f}",
        f"{expected[1]:.2f}–{expected[2]:.2f}",
        f"{expected[3]:.2f}",
        f"{expected[4]:.2f}–{expected[5]:.2f}",
        "1,000",
    ]


def test_group_rows_hold_value_interval_and_count_of_both_sections() -> None:
    document = to_plain(report_fixture.document())
    table = rows(to_markdown(document))
    labels = ("&lt; 6.9 %", "6.9–13.5 %", "13.5–27.3 %", "≥ 27.3 %")
    for key, label in zip(report_fixture.SCALE_KEYS, labels, strict=True):
        expected = []
        for metrics in document["results"].values():
            low, high = metrics["intervals"]["scale"][key]
            expected += [f"{metrics['scale'][key]:.1f}", f"{low:.1f}–{high:.1f}"]
            expected.append(f"{metrics['counts']['scale'][key]:,}")
        assert table[label] == expected


def test_every_table_row_has_as_many_cells_as_its_header() -> None:
    document = report_fixture.document()
    document["model"]["name"] = report_fixture.HOSTILE
    width = None
    for line in to_markdown(to_plain(document)).splitlines():
        cells = line.replace(r"\|", "").count("|") if line.startswith("|") else None
        assert width is None or cells is None or cells == width, line
        width = cells


def test_text_cannot_become_markup() -> None:
    document = report_fixture.document()
    document["model"]["name"] = report_fixture.HOSTILE + "\n# heading"
    document["published"]["image_to_image"]["status"] = report_fixture.HOSTILE
    document["results"]["text_to_image"]["categories"][report_fixture.HOSTILE] = 1.0
    markdown = to_markdown(to_plain(document))
    assert "<script" not in markdown
    assert "\n# heading" not in markdown
    assert "\\`tick\\`" in markdown


def test_a_missing_section_leaves_its_columns_out() -> None:
    document = report_fixture.document()
    del document["results"]["image_to_image"]
    del document["published"]["image_to_image"]
    document["search"]["ann_recall"] = None
    markdown = to_markdown(to_plain(document))
    assert "Image-to-image" not in markdown
    assert len(rows(markdown)["&lt; 6.9 %"]) == 3


def test_compile_time_stands_apart_and_recall_is_named_ann_recall() -> None:
    table = rows(to_markdown(to_plain(report_fixture.document())))
    assert table["embed images"] == ["25.1 s", "2 h 15 min", "5,005,947", "614 images/s"]
    assert table["embed text query"][-1] == "909 texts/s"
    assert table["ANN recall@1000 of ScaNN against exact, Image-to-image"] == ["98.12 %"]


def test_what_kept_the_devices_busy_is_said() -> None:
    markdown = to_markdown(to_plain(report_fixture.document()))
    assert (
        "Embed images: 93.1 % of what was computed was real (fill rate); "
        "the devices idled 4.2 % of the steady time."
    ) in markdown
    assert markdown.count("fill rate") == 1  # no other stage measures it


def test_published_numbers_stand_beside_ours() -> None:
    markdown = to_markdown(to_plain(report_fixture.document()))
    row = rows(markdown)["Image-to-image, mini-ILIAS, without linear adaptation"]
    assert row == ["24.2 (secondary)", "23.46", "-0.74", "-2.87 to +1.50"]
    assert "inside our 95 % interval" in markdown
    assert "uncertain: quoted elsewhere" in markdown
    assert "Text-to-image: not comparable with the published table: " in markdown
    assert "<script" not in markdown


def test_sections_that_differ_alike_share_a_line() -> None:
    document = report_fixture.document()
    reason = report_fixture.not_comparable("no model tiny")
    document["published"] = {"image_to_image": reason, "text_to_image": reason}
    lines = to_markdown(to_plain(document)).splitlines()
    (line,) = [line for line in lines if "not comparable" in line]
    assert line == (
        "Image-to-image and Text-to-image: not comparable with the published table: no model tiny."
    )
