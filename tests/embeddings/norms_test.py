"""The length of vectors: which are let through, and what is said of the others."""

import numpy as np
import pytest

from ilias_jax.embeddings.sources import (
    LENGTH_TOLERANCE,
    Checked,
    check_norms,
    squared_norms,
)
from ilias_jax.errors import UserError


def check_rows(rows, first_row, source):
    check_norms(squared_norms(rows), range(first_row, first_row + len(rows)), source)


class Rows:
    """Rows in memory; only rising ones are given."""

    def __init__(self, array):
        self.array = array

    def num_rows(self):
        return len(self.array)

    def ids(self):
        return [f"id {row}" for row in range(len(self.array))]

    def vectors(self):
        return self.array

    def rows(self, indices):
        return self.array[indices]

    def blocks(self, num_rows):
        for start in range(0, len(self.array), num_rows):
            yield self.array[start : start + num_rows]

    def place_of(self, row):
        return f"file, row {row} (id {row})"


def _unit(num_rows, dim=64):
    rows = np.random.default_rng(0).normal(size=(num_rows, dim))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def _bfloat16(rows):
    """Rounded to 8 bits, to nearest."""
    bits = rows.astype(np.float32).view(np.uint32)
    return ((bits + np.uint32(0x8000)) & np.uint32(0xFFFF0000)).view(np.float32)


@pytest.mark.parametrize("dim", [1, 2, 64, 4096])
@pytest.mark.parametrize("rounded", [np.float16, np.float32, _bfloat16])
def test_rounding_is_let_through(dim, rounded):
    """Vectors that were normalised in low precision: norm, quotient and result are rounded."""
    round_ = rounded if rounded is _bfloat16 else lambda rows: rows.astype(rounded)
    rows = round_(np.random.default_rng(1).normal(size=(500, dim)).astype(np.float32))
    norms = round_(np.linalg.norm(rows.astype(np.float32), axis=1, keepdims=True))
    rows = round_(rows.astype(np.float32) / norms.astype(np.float32))
    check_rows(rows, 0, Rows(rows))
    far = np.abs(np.sqrt(squared_norms(rows)) - 1).max()
    assert far <= 0.008 < LENGTH_TOLERANCE


@pytest.mark.parametrize(
    ("scale", "good"), [(0.989, False), (0.991, True), (1.009, True), (1.011, False)]
)
def test_the_tolerance(scale, good):
    squares = np.array([1, scale**2, 1], np.float32)
    if good:
        check_norms(squares, range(3), Rows(None))
    else:
        with pytest.raises(UserError, match=f"row 1 .* has length {scale} and not 1"):
            check_norms(squares, range(3), Rows(None))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.nan, r"file, row 7 \(id 7\) holds NaN or infinity; extract it again"),
        (np.inf, r"file, row 7 \(id 7\) holds NaN or infinity"),
        (1e30, r"file, row 7 \(id 7\) holds NaN or infinity"),  # its square is infinite
        (
            2,
            r"file, row 7 \(id 7\) has length 2\.\d+ and not 1 \(0\.99 to 1\.01 is allowed\); .*"
            r"extract it again, or, .* --normalize",
        ),
    ],
)
@pytest.mark.filterwarnings("error")
def test_the_first_bad_row_is_named(value, message):
    rows = _unit(10)
    rows[[7, 9], 3] = value
    source = Rows(rows)
    for check in (
        lambda: check_rows(rows[5:], 5, source),
        lambda: check_norms(squared_norms(rows[[2, 7, 9]]), np.array([2, 7, 9]), source),
        lambda: Checked(source).vectors(),
        lambda: list(Checked(source).blocks(3)),
        lambda: Checked(source).rows(np.array([9, 2, 7])),
    ):
        with pytest.raises(UserError, match=message):
            check()


def test_a_row_of_zeros_has_length_0():
    with pytest.raises(UserError, match=r"row 0 \(id 0\) has length 0 and not 1"):
        check_rows(np.zeros((1, 4), np.float16), 0, Rows(None))


def test_no_row_is_good():
    check_rows(np.zeros((0, 0), np.float16), 0, Rows(None))


def test_a_checked_source_is_the_source():
    source = Rows(_unit(10))
    checked = Checked(source)
    assert checked.num_rows() == 10 and checked.ids() == source.ids()
    assert checked.place_of(3) == source.place_of(3)
    np.testing.assert_array_equal(checked.vectors(), source.array)
    np.testing.assert_array_equal(np.concatenate(list(checked.blocks(4))), source.array)
    chosen = np.array([[3, 1], [1, 9]])
    np.testing.assert_array_equal(checked.rows(chosen), source.array[chosen])


def test_rows_before_a_bad_one_are_still_given():
    rows = _unit(10)
    rows[7] = 0
    blocks = Checked(Rows(rows)).blocks(3)
    assert len(next(blocks)) == len(next(blocks)) == 3
    with pytest.raises(UserError, match="row 7"):
        next(blocks)
