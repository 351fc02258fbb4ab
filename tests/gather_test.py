"""Rows at any places, against numpy's own indexing."""

import numpy as np
import pytest

from ilias_jax.gather import gather, runs, split

ROWS = np.arange(40).reshape(20, 2)


@pytest.mark.parametrize(
    "indices", [[], [3], [0, 5, 19], [7, 7], [9, 2, 9], [[4, 1], [1, 0]], np.zeros((0, 3), int), 6]
)
def test_any_indices_from_a_reader_of_rising_ones(indices):
    def read(wanted):
        assert wanted.ndim == 1 and (np.diff(wanted) > 0).all()
        return ROWS[wanted]

    indices = np.asarray(indices, int)
    found = gather(indices, 20, read)
    assert found.shape == (*indices.shape, 2)
    np.testing.assert_array_equal(found, ROWS[indices])


@pytest.mark.parametrize("indices", [[-1, 3], [3, -1], [20], [[0], [25]]])
def test_indices_outside_are_refused_before_anything_is_read(indices):
    with pytest.raises(IndexError, match=r"rows .* of 20"):
        gather(np.array(indices), 20, lambda wanted: pytest.fail("read"))


def test_rising_indices_are_dealt_out_to_the_parts_that_hold_them():
    rising = np.array([0, 4, 5, 9, 17])
    found = [(part, rising[taken].tolist()) for part, taken in split(rising, [0, 5, 5, 9, 12, 20])]
    assert found == [(0, [0, 4]), (2, [5]), (3, [9]), (4, [17])]
    assert list(split(rising[:0], [0, 5])) == list(split(rising[:0], [0])) == []


@pytest.mark.parametrize(
    ("apart", "most", "expected"),
    [
        (1, 100, [[0, 1, 2], [5], [8, 9], [30]]),
        (3, 100, [[0, 1, 2, 5, 8, 9], [30]]),
        (50, 100, [[0, 1, 2, 5, 8, 9, 30]]),
        (50, 5, [[0, 1, 2], [5, 8, 9], [30]]),
        (1, 1, [[0], [1], [2], [5], [8], [9], [30]]),
    ],
)
def test_runs_end_at_gaps_and_at_the_ends_of_stretches(apart, most, expected):
    rising = np.array([0, 1, 2, 5, 8, 9, 30])
    assert [rising[run].tolist() for run in runs(rising, apart, most)] == expected
    assert list(runs(rising[:0], apart, most)) == []
