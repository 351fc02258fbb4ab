"""Comparison of two runs: every number from the right queries, and what must not be compared."""

import copy
import json
import re

import numpy as np
import pytest
import run_fixture

from ilias_jax.comparison import compare_runs, warnings
from ilias_jax.errors import UserError
from ilias_jax.scored_run import ScoredRun, read_scored_run

FEW = {"num_resamples": 40, "num_permutations": 20}


def _run(tmp_path, name: str, document: dict) -> ScoredRun:
    path = tmp_path / f"{name}.json"
    path.write_text(json.dumps(document))
    return read_scored_run(path)


def _shuffled(document: dict) -> dict:
    """The same results with the queries in another order."""
    document = copy.deepcopy(document)
    for result in document["results"].values():
        order = np.random.default_rng(0).permutation(len(result["aps"]))
        pairs = list(result["aps"].items())
        result["aps"] = dict(pairs[i] for i in order)
        for groups in result["group_aps"].values():
            for key, values in groups.items():
                groups[key] = [values[i] for i in order]
    return document


def test_numbers_are_those_of_the_queries_matched_by_id(tmp_path):
    one, two = run_fixture.document(1), run_fixture.document(2)
    document = compare_runs(_run(tmp_path, "a", one), _run(tmp_path, "b", _shuffled(two)), **FEW)
    assert document["warnings"] == document["notes"] == []
    for section, result in document["sections"].items():
        a, b = (np.array(list(d["results"][section]["aps"].values())) for d in (one, two))
        assert result["map"]["a"] == pytest.approx(a.mean())
        assert result["map"]["b"] == pytest.approx(b.mean())
        assert result["map"]["difference"] == pytest.approx((b - a).mean())
        assert result["map"]["count"] == len(a)
        values = [d["results"][section]["group_aps"]["clutter"]["0-18"] for d in (one, two)]
        a_group, b_group = (np.array([v for v in row if v is not None]) for row in values)
        group = result["clutter"]["0-18"]
        assert group["difference"] == pytest.approx((b_group - a_group).mean())
        assert group["count"] == len(a_group) < len(a)
        per_object = (b - a).reshape(12, -1).mean(axis=1)
        assert result["categories"]["art"]["difference"] == pytest.approx(per_object[1::2].mean())
        assert result["categories"]["art"]["count"] == 6
        assert list(result["subcategories"]) == ["art-m", "toy-m"]


def test_a_run_against_itself_shows_nothing(tmp_path):
    run = _run(tmp_path, "a", run_fixture.document(1))
    document = compare_runs(run, run, **FEW)
    for result in document["sections"].values():
        assert result["map"]["difference"] == 0.0 and result["map"]["p_value"] == 1.0
        assert result["map"]["ci95"] == [0.0, 0.0]


def test_the_same_comparison_gives_the_same_numbers(tmp_path):
    runs = [_run(tmp_path, str(seed), run_fixture.document(seed)) for seed in (1, 2)]
    assert compare_runs(*runs, **FEW) == compare_runs(*runs, **FEW)
    assert compare_runs(*runs, **FEW) != compare_runs(*runs, **FEW, seed=1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": 100}, "DIFFERENT BENCHMARKS: A has k=1000, B has k=100"),
        ({"distractors": 499}, "DIFFERENT BENCHMARKS: .*num_distractors: A 500, B 499"),
    ],
)
def test_another_database_or_k_is_another_benchmark(tmp_path, change, message):
    a = _run(tmp_path, "a", run_fixture.document(1))
    b = _run(tmp_path, "b", run_fixture.document(2, **change))
    (warning,) = warnings(a, b)
    assert re.search(message, warning)


def test_a_file_that_does_not_say_what_was_searched_is_warned_of(tmp_path):
    a = _run(tmp_path, "a", run_fixture.document(1))
    b = _run(tmp_path, "b", run_fixture.official(2))
    document = compare_runs(a, b, **FEW)
    assert [w.split(";")[0] for w in document["warnings"]] == [
        "k is not known (A: 1000, B: None)",
        "B does not say what was searched",
    ]
    assert document["notes"] == [
        "text_to_image: in one run only",
        "by scale: B has no APs by group",
        "by clutter: B has no APs by group",
    ]
    assert list(document["sections"]) == ["image_to_image"]
    assert "art" in document["sections"]["image_to_image"]["categories"]  # as A says


def test_categories_come_from_the_taxonomy_where_runs_do_not_say(tmp_path):
    runs = [_run(tmp_path, str(seed), run_fixture.official(seed)) for seed in (1, 2)]
    silent = compare_runs(*runs, **FEW)
    assert "categories" not in silent["sections"]["image_to_image"]
    assert any("name --taxonomy" in note for note in silent["notes"])
    told = compare_runs(*runs, dict.fromkeys(run_fixture.OBJECTS, ("all", "of it")), **FEW)
    assert told["sections"]["image_to_image"]["categories"]["all"]["count"] == 12


def test_other_queries_are_an_error_with_counts(tmp_path):
    a = _run(tmp_path, "a", run_fixture.official(1))
    b = _run(tmp_path, "b", run_fixture.official(1, ["new/query/Q0.jpg", *run_fixture.QUERIES[2:]]))
    with pytest.raises(
        UserError,
        match=r"A has 24 queries, B has 23; 2 only in A \(thing_00/query/Q0.jpg, "
        r"thing_00/query/Q1.jpg\), 1 only in B \(new/query/Q0.jpg\)",
    ):
        compare_runs(a, b, **FEW)


def test_groups_of_other_positives_are_an_error(tmp_path):
    other = run_fixture.document(2)
    other["results"]["text_to_image"]["group_aps"]["scale"]["0-0.5"][0] = 3.0
    a = _run(tmp_path, "a", run_fixture.document(1))
    with pytest.raises(UserError, match=r"text_to_image, scale 0-0.5: A has 8 queries, B has 9"):
        compare_runs(a, _run(tmp_path, "b", other), **FEW)


def test_nothing_in_common_is_an_error(tmp_path):
    a = _run(tmp_path, "a", run_fixture.official(1))
    b = _run(tmp_path, "b", run_fixture.official(1, run_fixture.TEXTS))
    with pytest.raises(UserError, match=r"has image_to_image, .* has text_to_image: nothing"):
        compare_runs(a, b, **FEW)


def test_two_taxonomies_are_an_error(tmp_path):
    other = run_fixture.document(2)
    other["objects"]["thing_03"] = ["art", "other"]
    a, b = _run(tmp_path, "a", run_fixture.document(1)), _run(tmp_path, "b", other)
    with pytest.raises(UserError, match="1 objects have another category .* thing_03; name the"):
        compare_runs(a, b, **FEW)
