"""What a user is told about lists that must not be scored, and what an allowance does."""

import math
from typing import Any

import numpy as np
import pytest
from list_builder import content, lists_of

from ilias_jax.errors import UserError
from ilias_jax.ground_truth import GroundTruth
from ilias_jax.metrics.list_checks import ALLOWANCES, check_lists

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
        checked = check(lists)
        assert {name: content(part) for name, part in checked.lists.items()} == {
            kind: list(lists.items())
        }
        assert checked.notes == ()


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
    checked = check(lists, name)
    found = {query: pairs for part in checked.lists.values() for query, pairs in content(part)}
    assert found == scored
    assert [note for note in checked.notes if finding in note] == list(checked.notes)
    assert checked.notes[0].endswith(f"; allowed: {ALLOWANCES[name]}")


def test_repeated_queries_are_parts_of_one_search() -> None:
    twice = [(query, FULL) for query in IMAGES] + [(A, [("0.tar/7", 0.7), FULL[0]])]
    with pytest.raises(UserError, match=f"1 queries with several lists .'{A}'.\n    --allow repe"):
        check_lists(lists_of(*twice), TRUTH, 3)
    checked = check_lists(lists_of(*twice), TRUTH, 3, ["repeated_queries"])
    assert content(checked.lists["image"])[0] == (A, [FULL[0], ("0.tar/7", 0.7), FULL[1]])
    same = check_lists(lists_of(*twice[:3], *twice[:2]), TRUTH, 3)
    assert content(same.lists["image"]) == twice[:3] and same.notes == ()


def test_parts_that_disagree_about_an_id_need_both_allowances() -> None:
    twice = [(query, FULL) for query in IMAGES] + [(A, [(FULL[0][0], 0.8)])]
    with pytest.raises(UserError, match="--allow repeated_database_ids"):
        check_lists(lists_of(*twice), TRUTH, 2, ["repeated_queries"])
    both = ["repeated_queries", "repeated_database_ids"]
    checked = check_lists(lists_of(*twice), TRUTH, 2, both)
    assert content(checked.lists["image"])[0] == (A, FULL[:2])


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
    assert check(IMAGES, k=1000).notes == ()
    more = {**IMAGES, A: [*FULL, ("0.tar/2", 0.1)]}
    with pytest.raises(UserError, match="2 lists of fewer than 4 entries, the shortest of 3"):
        check(more, k=1000)


def test_distractors_can_be_looked_up() -> None:
    def lookup(names: set[str]) -> tuple[set[str], int]:
        assert names == {"0.tar/1"}
        return names, 1

    with pytest.raises(UserError, match=r"1 database ids .* nor in distractor_ids.txt.gz"):
        check(IMAGES, find_distractors=lookup)
    assert check(IMAGES, find_distractors=lambda names: (set(), 1), k=1000).notes == ()
    with pytest.raises(UserError, match="3 lists of fewer than 100 entries"):
        check(IMAGES, find_distractors=lambda names: (set(), 98), k=1000)


def test_files_of_another_dataset_and_empty_files_are_refused_whatever_is_allowed() -> None:
    with pytest.raises(UserError, match=r"none of the 2 queries \['p', 'q'\] is in the id files"):
        check({"p": FULL, "q": FULL}, *ALLOWANCES)
    with pytest.raises(UserError, match="no query in the files"):
        check({}, *ALLOWANCES)


def test_an_unknown_allowance_is_refused() -> None:
    with pytest.raises(UserError, match="--allow 'missing': no such name; choose of missing_quer"):
        check(IMAGES, "missing")
