"""Human names of groups, units, and the sentence about size."""

import pytest
import report_fixture

from ilias_jax.report import labels


@pytest.mark.parametrize(
    ("group", "key", "expected"),
    [
        ("scale", "0-0.06880213760855043", "< 6.9 %"),
        ("scale", "0.0-0.06880213760855043", "< 6.9 %"),
        ("scale", "0.06880213760855043-0.13526567164179104", "6.9–13.5 %"),
        ("scale", "0.2729876723163842-inf", "≥ 27.3 %"),
        ("clutter", "0-18", "< 18"),
        ("clutter", "18-33", "18–33"),
        ("clutter", "53-inf", "≥ 53"),
        ("scale", "not a range", "not a range"),
        ("categories", "18-33", "18-33"),
        ("subcategories", "toy-action_figure", "toy-action figure"),
    ],
)
def test_group_label(group: str, key: str, expected: str) -> None:
    assert labels.group_label(group, key) == expected


def test_bounds_go_up_even_where_text_order_differs() -> None:
    results = {"image_to_image": {"clutter": {"100-inf": 1.0, "0-9": 2.0, "9-100": 3.0}}}
    assert labels.group_order("clutter", results) == ["0-9", "9-100", "100-inf"]


def test_names_go_by_score_in_one_order_for_both_sections() -> None:
    results = {
        "image_to_image": {"categories": {"a": 1.0, "b": 9.0}},
        "text_to_image": {"categories": {"c": 5.0, "a": 99.0}},
    }
    assert labels.group_order("categories", results) == ["b", "c", "a"]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.004, "0.00 s"),
        (9.99, "9.99 s"),
        (42.04, "42.0 s"),
        (125, "2 min 05 s"),
        (8463, "2 h 21 min"),
    ],
)
def test_seconds(value: float, expected: str) -> None:
    assert labels.seconds(value) == expected


def test_a_smaller_database_is_called_a_different_benchmark() -> None:
    official, sentence = labels.comparability(report_fixture.document()["dataset"])
    assert not official
    assert "different benchmark" in sentence and "1,250,000" in sentence


def test_official_sizes_are_recognised_only_with_the_official_core() -> None:
    dataset = {**report_fixture.document()["dataset"], "num_distractors": 5_000_000}
    assert labels.comparability(dataset) == (
        True,
        "The official size of mini-ILIAS: 5,000,000 distractors.",
    )
    rejected = {**dataset, "num_distractors": 4_999_998, "num_rejected": 2}
    assert labels.comparability(rejected) == (
        True,
        "The official size of mini-ILIAS: 5,000,000 distractors, 2 of which could not be decoded.",
    )
    official, sentence = labels.comparability({**dataset, "num_positives": 4714})
    assert not official and "not the official" in sentence


def test_rejected_images_are_told_apart_by_where_they_were_rejected() -> None:
    dataset = {
        **report_fixture.document()["dataset"],
        "num_distractors": 4_999_995,
        "num_expected_distractors": 5_000_000,
        "num_rejected": 5,
        "num_rejected_at_conversion": 3,
    }
    assert labels.comparability(dataset) == (
        True,
        "The official size of mini-ILIAS: 5,000,000 distractors, 3 of which were rejected at "
        "conversion, 2 of which could not be decoded.",
    )


@pytest.mark.parametrize(
    ("facts", "sentence"),
    [
        (
            {"num_missing_distractors": 2, "num_extra_distractors": 2},
            "Listed distractors: 5,000,000. Missing from the shards: 2 "
            "(missing_distractors was allowed). Not on the list: 2 (extra_distractors was allowed).",
        ),
        (
            {"num_expected_distractors": None},
            "There was no list to check the distractors against.",
        ),
    ],
)
def test_the_official_number_of_other_distractors_is_another_benchmark(
    facts: dict, sentence: str
) -> None:
    dataset = {
        **report_fixture.document()["dataset"],
        "num_distractors": 5_000_000,
        "num_expected_distractors": 5_000_000,
        **facts,
    }
    official, text = labels.comparability(dataset)
    assert not official and text.endswith(sentence)


def test_ann_recall_names_scann_whichever_backend_scores() -> None:
    for backend in ("exact", "scann"):
        search = {"backend": backend, "k": 10, "ann_recall": {"image_to_image": 0.5}}
        facts = dict(labels.search_facts(search))
        assert facts["ANN recall@10 of ScaNN against exact, Image-to-image"] == "50.00 %"


def test_the_map_beside_exact_is_signed() -> None:
    search = {"k": 1000, "map_minus_exact": {"image_to_image": -0.1234}}
    assert dict(labels.search_facts(search)) == {
        "k": "1,000",
        "mAP@1000 of ScaNN minus exact, Image-to-image": "-0.123",
    }
