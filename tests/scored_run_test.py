"""Runs read back from a workdir, a report or a result file."""

import json

import pytest
import run_fixture

from ilias_jax.errors import UserError
from ilias_jax.scored_run import read_scored_run


def _write(path, document):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))
    return path


@pytest.mark.parametrize("named", ["work", "work/report", "work/report/report.json"])
def test_a_run_by_its_workdir_its_report_and_its_file(tmp_path, named):
    document = run_fixture.document(1)
    _write(tmp_path / "work" / "report" / "report.json", document)
    run = read_scored_run(tmp_path / named)
    assert run.place == str(tmp_path / "work" / "report" / "report.json")
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
    run = read_scored_run(_write(tmp_path / "out.json", results.get(kind, document)))
    expected = {"image": ["image_to_image"], "text": ["text_to_image"]}
    assert list(run.sections) == expected.get(kind, ["image_to_image", "text_to_image"])
    last = list(run.sections)[-1]
    result = results["image" if kind == "image" else "text"]
    assert run.sections[last].aps == dict(zip(result["queries"], result["aps"], strict=True))
    assert (run.k, run.database, run.objects) == (None, None, {})


BAD = {
    "no JSON": ("{", "is no JSON"),
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
    with pytest.raises(UserError, match=f"out.json .*{message}.*; expected a workdir"):
        read_scored_run(tmp_path / "out.json")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match="nowhere does not exist; expected a workdir"):
        read_scored_run(tmp_path / "nowhere")
    with pytest.raises(UserError, match="holds neither report.json nor report/report.json"):
        read_scored_run(tmp_path)
