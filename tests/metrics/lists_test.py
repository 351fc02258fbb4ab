"""The arrays of a similarity file; repeated queries and repeated ids."""

import math

import numpy as np
from list_builder import content, lists_of

from ilias_jax.metrics.lists import join, merge_repeated_queries

LISTS = lists_of(("b", [("x", 1.0), ("y", 2.0)]), ("a", []), ("c", [("y", 3.0)]))


def test_rows_and_lengths() -> None:
    assert LISTS.lengths.tolist() == [2, 0, 1] and LISTS.rows.tolist() == [0, 0, 2]


def test_take_moves_whole_lists() -> None:
    assert content(LISTS.take([2, 0])) == [("c", [("y", 3.0)]), ("b", [("x", 1.0), ("y", 2.0)])]
    assert content(LISTS.take([1])) == [("a", [])] and content(LISTS.take([])) == []
    assert content(LISTS.take([0, 1, 2])) == content(LISTS)


def test_keep_drops_entries_and_no_query() -> None:
    kept = LISTS.keep(np.array([False, True, False]))
    assert content(kept) == [("b", [("y", 2.0)]), ("a", []), ("c", [])]


def test_join_numbers_the_ids_of_all_parts_anew() -> None:
    other = lists_of(("d", [("z", 4.0), ("x", 5.0)]))
    joined = join([LISTS, other])
    assert content(joined) == content(LISTS) + content(other)
    assert joined.database_ids == ("x", "y", "z")


def test_descending_keeps_the_order_of_equal_scores() -> None:
    lists = lists_of(
        ("b", [("x", 1.0), ("y", 3.0), ("z", 1.0), ("w", 3.0)]), ("a", [("x", 0.0), ("y", 9.0)])
    )
    assert content(lists.descending()) == [
        ("b", [("y", 3.0), ("w", 3.0), ("x", 1.0), ("z", 1.0)]),
        ("a", [("y", 9.0), ("x", 0.0)]),
    ]


def test_lists_without_repeats_are_left_alone() -> None:
    lists = lists_of(("b", [("x", 1.0)]), ("a", [("x", 2.0)]))
    assert merge_repeated_queries(lists) == (lists, [])
    assert lists.first_of_ids().tolist() == [True, True]


def test_the_same_list_again_is_no_finding() -> None:
    one = [("x", math.nan), ("y", 2.0)]
    joined, differing = merge_repeated_queries(lists_of(("q", one), ("r", []), ("q", one)))
    assert differing == [] and joined.query_ids == ("q", "r")
    assert joined.lengths.tolist() == [2, 0] and joined.scores[1] == 2.0


def test_parts_of_a_search_become_the_search_of_the_whole() -> None:
    """Random databases in parts of random size; every part holds the positives too."""
    rng = np.random.default_rng(0)
    for _ in range(30):
        k, size = int(rng.integers(1, 12)), int(rng.integers(1, 40))
        scores = dict(zip((f"d{n}" for n in range(size)), rng.random(size), strict=True))
        part_of = rng.integers(0, 3, size)
        parts = [
            {name: s for n, (name, s) in enumerate(scores.items()) if part_of[n] == part or n < 2}
            for part in range(3)
        ]

        def search(database: dict[str, float], k: int = k) -> list[tuple[str, float]]:
            return sorted(database.items(), key=lambda pair: -pair[1])[:k]

        lists = lists_of(*(("q", search(part)) for part in parts))
        joined, _ = merge_repeated_queries(lists)
        # A database that is smaller than k is known whole, so nothing is missing from the join.
        length = max(len(search(part)) for part in parts)
        assert content(joined) == [("q", search(scores)[:length])]


def test_the_best_score_of_a_repeated_id_counts_the_first_of_equal_ones() -> None:
    lists = lists_of(
        ("q", [("x", 1.0), ("y", 5.0), ("x", 3.0), ("x", 2.0)]),
        ("r", [("x", 1.0), ("y", 2.0), ("y", 2.0)]),
    )
    assert lists.first_of_ids().tolist() == [False, True, True, False, True, True, False]
