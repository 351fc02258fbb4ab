"""Sources made of others, against the same arrays in numpy; rows gathered and blocks cut anew."""

import dataclasses

import numpy as np
import pytest

from ilias_jax.embeddings.sources import (
    Concatenated,
    Mapped,
    Selected,
    gather,
    regroup,
    runs,
    split,
)


@dataclasses.dataclass
class Rows:
    """Rows in memory that count how often their ids are read."""

    names: list
    array: np.ndarray
    num_reads: int = 0

    def num_rows(self):
        return len(self.names)

    def ids(self):
        self.num_reads += 1
        return list(self.names)

    def vectors(self):
        return self.array

    def blocks(self, num_rows):
        return regroup([self.array], num_rows)

    def rows(self, indices):
        assert np.all((indices >= 0) & (indices < len(self.names)))
        return self.array[indices]

    def place_of(self, row):
        return f"row {row} ({self.names[row]})"


def _parts(sizes=(5, 0, 3, 9)):
    rng = np.random.default_rng(1)
    return [
        Rows([f"{number}/{row}" for row in range(size)], rng.normal(size=(size, 4)).astype("f4"))
        for number, size in enumerate(sizes)
    ]


def _all(parts):
    return [name for part in parts for name in part.names], np.concatenate([p.array for p in parts])


def _check(source, names, array):
    assert source.num_rows() == len(names)
    assert source.ids() == names
    np.testing.assert_array_equal(source.vectors(), array)
    for num_rows in (1, 4, 50):
        blocks = list(source.blocks(num_rows))
        np.testing.assert_array_equal(np.concatenate(blocks), array)
        assert all(len(block) == num_rows for block in blocks[:-1])
    count, rng = len(names), np.random.default_rng(3)
    for indices in (
        *([], [0], [count - 1], np.arange(count), np.arange(count)[::-1]),
        rng.integers(count, size=(2, 7)),
        np.zeros((0, 3), int),
    ):
        indices = np.asarray(indices, int)
        found = source.rows(indices)
        np.testing.assert_array_equal(found, array[indices].reshape(found.shape))
        assert found.shape[:-1] == indices.shape
    for row, name in enumerate(names):
        assert source.place_of(row).endswith(f"({name})")
    for wrong in ([-1], [count]):
        with pytest.raises((IndexError, AssertionError)):
            source.rows(np.array(wrong))


def test_concatenated():
    parts = _parts()
    _check(Concatenated(parts), *_all(parts))


@pytest.mark.parametrize("rows", [[], [0], [4, 5], [16], [2, 7, 8, 16], list(range(17))])
def test_ids_at_rows(rows):
    parts = _parts()
    names, _ = _all(parts)
    assert Concatenated(parts).ids_at(np.array(rows, int)) == [names[row] for row in rows]


def test_ids_are_read_of_the_parts_that_have_such_rows_alone():
    parts = _parts()
    Concatenated(parts).ids_at(np.array([6, 7]))
    assert [part.num_reads for part in parts] == [0, 0, 1, 0]


@pytest.mark.parametrize("share", [0.3, 0.9])
def test_selected(share, monkeypatch):
    monkeypatch.setattr("ilias_jax.embeddings.sources._ROWS_AT_ONCE", 3)
    source = Concatenated(_parts())
    names, array = _all(source.parts)
    kept = np.random.default_rng(2).random(len(names)) < share
    _check(Selected(source, kept), [n for n, k in zip(names, kept, strict=True) if k], array[kept])


def test_of_a_source_without_a_selected_row_nothing_is_read():
    class Unreadable(Rows):
        def blocks(self, num_rows):
            raise AssertionError

    source = Selected(Unreadable(["a"], np.zeros((1, 2))), np.array([False]))
    assert list(source.blocks(4)) == [] and source.num_rows() == 0


def test_mapped_is_given_the_same_rows_whatever_the_blocks(monkeypatch):
    monkeypatch.setattr("ilias_jax.embeddings.sources._ROWS_AT_ONCE", 6)
    given = []

    def apply(rows):
        given.append(len(rows))
        return 2 * rows[:, :2]

    source = Concatenated(_parts())
    names, array = _all(source.parts)
    _check(Mapped(source, apply), names, 2 * array[:, :2])
    assert given[:10] == [17] + [6, 6, 5] * 3


def test_parts_of_two_dtypes_give_float32():
    parts = _parts()
    parts[2].array = parts[2].array.astype(np.float16)
    source = Concatenated(parts)
    assert source.rows(np.array([6, 7])).dtype == np.float16
    assert source.rows(np.array([0, 7])).dtype == source.vectors().dtype == np.float32


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
