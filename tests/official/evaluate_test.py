"""Files in, numbers out: the output, the screen, and what lists must not be scored."""

import gzip
import json
import math
import pathlib
import re
import shutil
from typing import Any

import numpy as np
import official_cases
import pytest
from list_builder import content, lists_of

from ilias_jax.dataset.ground_truth import GroundTruth
from ilias_jax.errors import UserError
from ilias_jax.official.evaluate import ALLOWANCES, check_lists, evaluate_files, write_evaluation

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
    for k in (0, 10_001):
        with pytest.raises(UserError, match=f"k = {k}; it must be 1 to 10,000"):
            evaluate_files(["none.json"], "nowhere", k=k)
    with pytest.raises(UserError, match="--allow 'everything': no such name"):
        evaluate_files(["none.json"], "nowhere", allowed=["everything"])


TRUTH = GroundTruth(
    image_query_ids=("a/query/Q0.jpg", "a/query/Q1.jpg", "b/query/Q0.jpg"),
    text_query_ids=("a/query/T.txt", "b/query/T.txt"),
    positive_ids=("a/pos/P0.jpg", "b/pos/P0.jpg"),
    scale=np.full(2, 0.5),
    clutter=np.zeros(2, np.int32),
    taxonomy={"a": ("art", "vase", "red"), "b": ("art", "vase", "red")},
)
FULL = [("a/pos/P0.jpg", 0.9), ("0.tar/1", 0.5), ("b/pos/P0.jpg", 0.25)]
IMAGES = dict.fromkeys(TRUTH.image_query_ids, FULL)
TEXTS = dict.fromkeys(TRUTH.text_query_ids, FULL)
A, A1, B = TRUTH.image_query_ids


def check(lists: dict[str, Any], *allowed: str, k: int = 3, **kwargs: Any) -> Any:
    return check_lists(lists_of(*lists.items()), TRUTH, k, allowed, **kwargs)


def test_good_lists_pass_as_they_are() -> None:
    for kind, lists in (("image", IMAGES), ("text", TEXTS)):
        kinds, notes = check(lists)
        assert {name: content(part) for name, part in kinds.items()} == {kind: list(lists.items())}
        assert notes == ()


# name -> lists that need it, the finding, the lists that are scored then
EXAMPLES: dict[str, tuple[dict[str, Any], str, dict[str, Any]]] = {
    "missing_queries": (
        {A: FULL},
        f"2 of 3 image queries missing ('{A1}', '{B}')",
        {A: FULL},
    ),
    "unknown_queries": (
        {**IMAGES, "a/query/Q9.jpg": FULL, "Q": []},
        "2 queries that the id files do not have ('a/query/Q9.jpg', 'Q')",
        IMAGES,
    ),
    "repeated_database_ids": (
        {**IMAGES, A: [*FULL, ("0.tar/1", 0.75)]},
        f"1 entries whose id is in the same list already ('0.tar/1 of {A}')",
        {**IMAGES, A: [FULL[0], FULL[2], ("0.tar/1", 0.75)]},
    ),
    "unknown_database_ids": (
        {
            **IMAGES,
            A: [
                *FULL,
                *((name, 0.0) for name in ("a/pos/P9.jpg", A, "0.tar/", ".tar/1", "x/0.tar/1")),
            ],
        },
        "5 database ids that are neither a positive nor `<file>.tar/<key>` "
        "('.tar/1', '0.tar/', 'a/pos/P9.jpg', ...)",
        {
            **IMAGES,
            A: [
                *FULL,
                *((name, 0.0) for name in ("a/pos/P9.jpg", A, "0.tar/", ".tar/1", "x/0.tar/1")),
            ],
        },
    ),
    "non_finite_scores": (
        {
            **IMAGES,
            A: [*FULL, ("0.tar/2", math.nan)],
            B: [("0.tar/3", math.inf), *FULL, ("0.tar/2", -math.inf)],
        },
        f"3 scores that are NaN or infinite ('0.tar/2 of {A}', '0.tar/3 of {B}', '0.tar/2 of {B}')",
        IMAGES,
    ),
    "mixed_kinds": (
        {**TEXTS, **IMAGES},
        "2 query kinds in one result: 3 image queries, 2 text queries",
        {**IMAGES, **TEXTS},
    ),
    "short_lists": (
        {**IMAGES, B: FULL[:2], A: []},
        f"2 lists of fewer than 3 entries, the shortest of 0 ('{A}', '{B}')",
        {**IMAGES, B: FULL[:2], A: []},
    ),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_each_finding_is_an_error_that_names_its_allowance(name: str) -> None:
    lists, finding, _ = EXAMPLES[name]
    with pytest.raises(UserError) as error:
        check(lists, *(set(ALLOWANCES) - {name}))
    message = str(error.value)
    assert message.startswith("similarities: nothing was scored, because of\n  ")
    assert finding in message and f"--allow {name}: {ALLOWANCES[name]}" in message
    assert message.count("--allow") == 1


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_allowance_does_what_it_says_and_says_so(name: str) -> None:
    lists, finding, scored = EXAMPLES[name]
    kinds, notes = check(lists, name)
    found = {query: pairs for part in kinds.values() for query, pairs in content(part)}
    assert found == scored
    assert [note for note in notes if finding in note] == list(notes)
    assert notes[0].endswith(f"; allowed: {ALLOWANCES[name]}")


def test_repeated_queries_are_parts_of_one_search() -> None:
    twice = [(query, FULL) for query in IMAGES] + [(A, [("0.tar/7", 0.7), FULL[0]])]
    with pytest.raises(UserError, match=f"1 queries with several lists .'{A}'.\n    --allow repe"):
        check_lists(lists_of(*twice), TRUTH, 3)
    kinds, _ = check_lists(lists_of(*twice), TRUTH, 3, ["repeated_queries"])
    assert content(kinds["image"])[0] == (A, [FULL[0], ("0.tar/7", 0.7), FULL[1]])
    kinds, notes = check_lists(lists_of(*twice[:3], *twice[:2]), TRUTH, 3)
    assert content(kinds["image"]) == twice[:3] and notes == ()


def test_parts_that_disagree_about_an_id_need_both_allowances() -> None:
    twice = [(query, FULL) for query in IMAGES] + [(A, [(FULL[0][0], 0.8)])]
    with pytest.raises(UserError, match="--allow repeated_database_ids"):
        check_lists(lists_of(*twice), TRUTH, 2, ["repeated_queries"])
    both = ["repeated_queries", "repeated_database_ids"]
    kinds, _ = check_lists(lists_of(*twice), TRUTH, 2, both)
    assert content(kinds["image"])[0] == (A, FULL[:2])


def test_all_findings_come_in_one_message() -> None:
    lists = {A: [("x", math.nan)], "q": FULL, **TEXTS}
    with pytest.raises(UserError) as error:
        check(lists)
    names = [line.split()[1][:-1] for line in str(error.value).splitlines() if "--allow" in line]
    assert names == [
        *("unknown_queries", "non_finite_scores", "unknown_database_ids", "missing_queries"),
        *("mixed_kinds", "short_lists"),
    ]


def test_missing_queries_count_for_each_kind_that_is_there() -> None:
    with pytest.raises(UserError, match="2 of 3 image queries and 2 text queries missing"):
        check({A: FULL, **TEXTS}, "mixed_kinds")


def test_a_database_smaller_than_k_needs_no_longer_lists() -> None:
    assert check(IMAGES, k=1000)[1] == ()
    more = {**IMAGES, A: [*FULL, ("0.tar/2", 0.1)]}
    with pytest.raises(UserError, match="2 lists of fewer than 4 entries, the shortest of 3"):
        check(more, k=1000)


def test_distractors_can_be_looked_up() -> None:
    def lookup(names: set[str]) -> tuple[set[str], int]:
        assert names == {"0.tar/1"}
        return names, 1

    with pytest.raises(UserError, match=r"1 database ids .* nor in distractor_ids.txt.gz"):
        check(IMAGES, find_distractors=lookup)
    assert check(IMAGES, find_distractors=lambda names: (set(), 1), k=1000)[1] == ()
    with pytest.raises(UserError, match="3 lists of fewer than 100 entries"):
        check(IMAGES, find_distractors=lambda names: (set(), 98), k=1000)


def test_files_of_another_dataset_and_empty_files_are_refused_whatever_is_allowed() -> None:
    with pytest.raises(UserError, match=r"none of the 2 queries \['p', 'q'\] is in the id files"):
        check({"p": FULL, "q": FULL}, *ALLOWANCES)
    with pytest.raises(UserError, match="no query in the files"):
        check({}, *ALLOWANCES)
