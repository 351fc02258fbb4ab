"""The arrays of a similarity file."""

import dataclasses
from typing import Any

import numpy as np
import pytest
from list_builder import content, lists_of

from ilias_jax.similarity_lists import join

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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scores": np.zeros(3, np.float32)}, r"scores is float32\[3\]; expected float64\[3\]"),
        ({"scores": np.zeros(2)}, r"scores is float64\[2\]; expected float64\[3\]"),
        ({"offsets": np.array([0, 2, 3])}, r"offsets is int64\[3\]; expected int64\[4\]"),
        ({"offsets": np.array([0, 3, 2, 3])}, "offsets do not rise from 0 to 3"),
        ({"offsets": np.array([0, 1, 2, 2])}, "offsets do not rise from 0 to 3"),
        ({"entries": np.array([0, 1, 2], np.int32)}, r"an entry is not in \[0, 2\)"),
        ({"entries": np.array([0, -1, 1], np.int32)}, r"an entry is not in \[0, 2\)"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(LISTS, **change)
