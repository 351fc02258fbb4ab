"""Runs read back from their files and compared: every number from the right queries."""

import copy
import json
import re

import numpy as np
import pytest
import run_fixture

from ilias_jax.errors import UserError
from ilias_jax.metrics.compare import RunScores, compare_runs, read_run_scores

FEW = {"num_resamples": 40, "num_permutations": 20}


def _run(tmp_path, name: str, document: dict) -> RunScores:
    path = tmp_path / f"{name}.json"
    path.write_text(json.dumps(document))
    return read_run_scores(path)


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
    (warning,) = compare_runs(a, b, **FEW)["warnings"]
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


def _write(path, document):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))
    return path


@pytest.mark.parametrize("named", ["work", "work/report", "work/report/report.json"])
def test_a_run_by_its_workdir_its_report_and_its_file(tmp_path, named):
    document = run_fixture.document(1)
    _write(tmp_path / "work" / "report" / "report.json", document)
    run = read_run_scores(tmp_path / named)
    assert run.path == str(tmp_path / "work" / "report" / "report.json")
    assert (run.model, run.k, run.database["num_distractors"]) == ("model 1", 1000, 500)
    assert run.objects["thing_01"] == ("art", "m")
    for name, result in document["results"].items():
        assert run.sections[name].aps == result["aps"]
    groups = run.sections["image_to_image"].group_aps
    values = document["results"]["image_to_image"]["group_aps"]["clutter"]["0-18"]
    counted = {q: v for q, v in zip(run_fixture.QUERIES, values, strict=True) if v is not None}
    assert groups["clutter"]["0-18"] == counted
    assert len(counted) == 16


@pytest.mark.parametrize("kind", ["image", "text", "both"])
def test_a_result_with_the_official_keys(tmp_path, kind):
    results = {
        "image": run_fixture.official(1),
        "text": run_fixture.official(2, run_fixture.TEXTS),
    }
    document = {f"{name} queries": result for name, result in results.items()}
    run = read_run_scores(_write(tmp_path / "out.json", results.get(kind, document)))
    expected = {"image": ["image_to_image"], "text": ["text_to_image"]}
    assert list(run.sections) == expected.get(kind, ["image_to_image", "text_to_image"])
    last = list(run.sections)[-1]
    result = results["image" if kind == "image" else "text"]
    assert run.sections[last].aps == dict(zip(result["queries"], result["aps"], strict=True))
    assert (run.k, run.database, run.objects) == (None, None, {})


BAD = {
    "no JSON": ("{", "line 1, column 2: broken JSON"),
    "a list": ("[1]", "no scores by query"),
    "nothing in it": ("{}", "neither image_to_image nor text_to_image"),
    "lengths": ('{"queries": ["a/query/Q.jpg"], "aps": [1.0, 2.0]}', "no scores by query"),
    "twice": (
        '{"queries": ["a/query/Q.jpg", "a/query/Q.jpg"], "aps": [1.0, 2.0]}',
        "1 queries come twice",
    ),
    "fractions of more than all": ('{"queries": ["a/query/Q.jpg"], "aps": [101]}', "0, 100"),
    "NaN": ('{"queries": ["a/query/Q.jpg"], "aps": [NaN]}', "0, 100"),
    "none": ('{"queries": ["a/query/Q.jpg"], "aps": [null]}', "a query has no AP"),
    "no query": ('{"results": {"image_to_image": {"map@5": 0, "aps": {}}}}', "there is no query"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_file_without_scores_is_refused(tmp_path, case):
    text, message = BAD[case]
    (tmp_path / "out.json").write_text(text)
    with pytest.raises(UserError, match=f"out.json.*{message}.*; expected a workdir"):
        read_run_scores(tmp_path / "out.json")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match="nowhere does not exist; expected a workdir"):
        read_run_scores(tmp_path / "nowhere")
    with pytest.raises(UserError, match="holds neither report.json nor report/report.json"):
        read_run_scores(tmp_path)
