"""Cutting rows anew, against one slice of all rows."""

import numpy as np
import pytest

from ilias_jax.blocks import regroup


@pytest.mark.parametrize("num_rows", [1, 3, 4, 11, 100])
@pytest.mark.parametrize("sizes", [(4, 0, 1, 6), (11,), (0,), (), (2, 2, 2)])
def test_equals_slices_of_the_whole(sizes, num_rows):
    rows = np.arange(2 * sum(sizes), dtype=np.float16).reshape(-1, 2)
    pieces = np.split(rows, np.cumsum(sizes)[:-1]) if sizes else []
    blocks = list(regroup(pieces, num_rows))
    starts = range(0, len(rows), num_rows)
    assert len(blocks) == len(starts)
    for block, start in zip(blocks, starts, strict=True):
        np.testing.assert_array_equal(block, rows[start : start + num_rows])
        assert block.dtype == np.float16


def test_a_piece_without_rows_may_have_another_width():
    pieces = [np.zeros((0, 0), np.float32), np.ones((3, 2), np.float32), np.zeros((0, 7))]
    (block,) = regroup(pieces, 5)
    assert block.shape == (3, 2) and block.dtype == np.float32


def test_takes_no_more_pieces_than_it_needs():
    taken = []

    def pieces():
        for number in range(5):
            taken.append(number)
            yield np.full((2, 1), number)

    blocks = regroup(pieces(), 3)
    next(blocks)
    assert taken == [0, 1]
