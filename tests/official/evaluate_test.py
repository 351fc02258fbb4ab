"""Files in, numbers out: what stands in the output and on the screen."""

import gzip
import json
import pathlib
import re
import shutil

import official_cases
import pytest

from ilias_jax.errors import UserError
from ilias_jax.evaluation import evaluate_files, write_evaluation

CASES = {case.name: case for case in official_cases.CASES}
OFFICIAL = {"map", "aps", "queries", "oracle", "scale", "clutter", "categories", "subcategories"}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("evaluation") / "world"
    official_cases.write_ids(folder)
    for name in ("image_json_50_of_1000", "text_json_50", "image_json_short"):
        official_cases.write_lists(CASES[name], folder)
    return folder


def test_one_kind_has_the_official_keys_on_top(world: pathlib.Path, tmp_path: pathlib.Path) -> None:
    found = evaluate_files([world / "text_json_50.json"], world, k=50)
    write_evaluation(found, tmp_path / "new" / "out.json")
    document = json.loads((tmp_path / "new" / "out.json").read_text())
    assert set(document) > OFFICIAL and document == found.to_dict()
    assert document["kind"] == "text" and document["k"] == 50
    assert len(document["aps"]) == len(document["queries"]) == document["num_queries"] == 14
    low, high = document["ci95"]
    assert low < document["map"] < high
    assert found.lines()[0].startswith("14 text queries: mAP@50 ")
    again = evaluate_files([world / "text_json_50.json"], world, k=50)
    write_evaluation(again, tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "new/out.json").read_bytes()


def test_two_kinds_are_two_results_and_never_one_mean(world: pathlib.Path) -> None:
    images, texts = world / "image_json_50_of_1000.json", world / "text_json_50.json"
    with pytest.raises(UserError, match="2 query kinds in one result: 27 image .*, 14 text"):
        evaluate_files([images, texts], world, k=50)
    both = evaluate_files([images, texts], world, k=50, allowed=["mixed_kinds"])
    document = both.to_dict()
    assert set(document) == {"image", "text"}
    for kind, path in (("image", images), ("text", texts)):
        alone = evaluate_files([path], world, k=50).to_dict()
        assert {key: document[kind][key] for key in OFFICIAL} == {
            key: alone[key] for key in OFFICIAL
        }
    assert [line for line in both.lines() if "queries: mAP" in line][1].startswith("14 text")


def test_parts_by_query_and_parts_by_database_give_the_result_of_the_whole(
    world: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    path = world / "image_json_50_of_1000.json"
    whole = evaluate_files([path], world).to_dict()
    lists = json.loads(path.read_text())
    names = list(lists)
    by_query = [{query: lists[query] for query in part} for part in (names[::2], names[1::2])]
    by_database = [
        {
            query: {name: score for name, score in found.items() if part(name)}
            for query, found in lists.items()
        }
        for part in (lambda name: "/pos/" in name or name < "00004", lambda name: name >= "00004")
    ]
    for name, parts in (("query", by_query), ("database", by_database)):
        for number, part in enumerate(parts):
            (tmp_path / f"{name}{number}.json").write_text(json.dumps(part))
    queries = [tmp_path / "query1.json", tmp_path / "query0.json"]
    assert evaluate_files(queries, world).to_dict() == whole
    databases = [tmp_path / "database0.json", tmp_path / "database1.json"]
    with pytest.raises(UserError, match="27 queries with several lists"):
        evaluate_files(databases, world)
    # Together the parts are shorter than the whole was: compare what is not cut away.
    allowed = ["repeated_queries", "short_lists"]
    joined = evaluate_files(databases, world, k=50, allowed=allowed).to_dict()
    wanted = evaluate_files([path], world, k=50).to_dict()
    assert {key: joined[key] for key in OFFICIAL} == {key: wanted[key] for key in OFFICIAL}


def test_what_makes_a_number_doubtful_is_said_beside_it(world: pathlib.Path) -> None:
    found = evaluate_files([world / "image_json_short.json"], world, allowed=["short_lists"])
    text = "\n".join(found.lines())
    recall = found.scores["image"].metrics.oracle
    assert f"the retrieval recall@1,000 is {recall:.2f} %" in text
    assert found.to_dict()["recall"] == recall < found.to_dict()["oracle"]
    assert re.search(r"note: 27 lists of fewer than \S+ entries, the shortest of 0 \(", text)
    tied = {query: dict.fromkeys(official_cases._distractors(), 0.5) for query in _images(world)}
    for query, found_ids in tied.items():
        found_ids[f"{query.split('/')[0]}/pos/P000_00.jpg"] = 0.5
    (world / "tied.json").write_text(json.dumps(tied))
    lines = evaluate_files([world / "tied.json"], world).lines()
    assert any("27 queries have a positive among equal scores on both sides" in x for x in lines)


def _images(world: pathlib.Path) -> list[str]:
    lines = (world / "image_ids" / "image_query_ids.txt").read_text().split()
    return [line.split(",")[0] for line in lines]


def test_distractors_are_looked_up_if_asked(world: pathlib.Path, tmp_path: pathlib.Path) -> None:
    copy = tmp_path / "world"
    shutil.copytree(world, copy)
    path, listed = copy / "text_json_50.json", copy / "image_ids" / "distractor_ids.txt.gz"
    with pytest.raises(UserError, match="distractor_ids.txt.gz: no such file"):
        evaluate_files([path], copy, k=50, check_distractors=True)
    names = official_cases._distractors()
    listed.write_bytes(gzip.compress("\n".join(names).encode()))
    whole = evaluate_files([path], copy, k=50, check_distractors=True)
    assert whole.to_dict() == evaluate_files([path], copy, k=50).to_dict()
    listed.write_bytes(gzip.compress("\n".join(names[:-700]).encode()))
    with pytest.raises(UserError, match=r"database ids that are neither .* distractor_ids.txt.gz"):
        evaluate_files([path], copy, k=50, check_distractors=True)


def test_the_taxonomy_may_be_elsewhere(world: pathlib.Path, tmp_path: pathlib.Path) -> None:
    copy = tmp_path / "world"
    shutil.copytree(world, copy)
    moved = (copy / "misc" / "taxonomy.json").rename(tmp_path / "t.json")
    path = world / "text_json_50.json"
    with pytest.raises(UserError, match="taxonomy.json: no such file"):
        evaluate_files([path], copy, k=50)
    found = evaluate_files([path], copy, taxonomy=moved, k=50).to_dict()
    assert found == evaluate_files([path], world, k=50).to_dict()


def test_wrong_arguments_are_refused_before_a_file_is_read() -> None:
    with pytest.raises(UserError, match="k = 0; it must be at least 1"):
        evaluate_files(["none.json"], "nowhere", k=0)
    with pytest.raises(UserError, match="--allow 'everything': no such name"):
        evaluate_files(["none.json"], "nowhere", allowed=["everything"])
