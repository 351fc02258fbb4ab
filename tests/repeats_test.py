"""Repeated ids, against a count of all ids together."""

import collections

import numpy as np
import pytest

from ilias_jax.repeats import repeated_ids


def _find(*lists):
    return repeated_ids([lambda ids=ids: list(ids) for ids in lists])


@pytest.mark.parametrize(
    ("lists", "repeated"),
    [
        ([["a.tar/1", "a.tar/2"], ["b.tar/1"]], []),
        ([["a.tar/1", "a.tar/1"], ["b.tar/1"]], ["a.tar/1"]),
        ([["a.tar/1"], ["b.tar/1", "a.tar/1"]], ["a.tar/1"]),
        (
            [["a.tar/1", "c.tar/1", "c.tar/1"], ["a.tar/1"], ["a.tar/1"]],
            ["c.tar/1", *2 * ["a.tar/1"]],
        ),
        ([["plain"], ["plain"]], ["plain"]),
        ([[], []], []),
    ],
)
def test_names_every_repetition(lists, repeated):
    assert _find(*lists) == repeated


def test_equals_a_count_of_all_ids():
    rng = np.random.default_rng(0)
    for _ in range(50):
        lists = [
            [f"{rng.integers(3)}.tar/{rng.integers(9)}" for _ in range(rng.integers(6))]
            for _ in range(rng.integers(1, 4))
        ]
        counts = collections.Counter(name for ids in lists for name in ids)
        expected = [name for name, count in counts.items() for _ in range(count - 1)]
        assert sorted(_find(*lists)) == sorted(expected), lists


def test_lists_that_share_no_folder_are_read_once():
    reads = []

    def read(name):
        reads.append(name)
        return [f"{name}.tar/0"]

    repeated_ids([lambda name=name: read(name) for name in "abc"])
    assert reads == ["a", "b", "c"]
