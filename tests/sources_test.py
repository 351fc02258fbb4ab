"""Sources made of others, against the same arrays in numpy."""

import dataclasses

import numpy as np
import pytest

from ilias_jax.blocks import regroup
from ilias_jax.sources import Concatenated, Mapped, Range, Selected


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
    monkeypatch.setattr("ilias_jax.sources._ROWS_AT_ONCE", 3)
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
    monkeypatch.setattr("ilias_jax.sources._ROWS_AT_ONCE", 6)
    given = []

    def apply(rows):
        given.append(len(rows))
        return 2 * rows[:, :2]

    source = Concatenated(_parts())
    names, array = _all(source.parts)
    _check(Mapped(source, apply), names, 2 * array[:, :2])
    assert given[:12] == [6, 6, 5] * 4


@pytest.mark.parametrize(("start", "stop"), [(0, 17), (0, 1), (3, 9), (5, 8), (8, 17), (16, 17)])
def test_range(start, stop):
    source = Concatenated(_parts())
    names, array = _all(source.parts)
    _check(Range(source, start, stop), names[start:stop], array[start:stop])


def test_ranges_make_up_the_whole_and_may_hold_nothing():
    source = Concatenated(_parts())
    _, array = _all(source.parts)
    edges = [0, 4, 4, 11, 17]
    ranges = [Range(source, *pair) for pair in zip(edges, edges[1:], strict=False)]
    blocks = [block for each in ranges for block in each.blocks(3)]
    np.testing.assert_array_equal(np.concatenate(blocks), array)
    assert list(ranges[1].blocks(3)) == [] and ranges[1].ids() == []


@pytest.mark.parametrize(("start", "stop"), [(-1, 3), (4, 3), (0, 18)])
def test_ranges_beyond_the_source_are_refused(start, stop):
    with pytest.raises(ValueError, match=rf"rows {start}\.\.{stop} of a source of 17"):
        Range(Concatenated(_parts()), start, stop)


def test_a_range_reads_its_own_rows_alone():
    class Noting(Rows):
        def rows(self, indices):
            read.extend(indices.tolist())
            return super().rows(indices)

        def blocks(self, num_rows):
            raise AssertionError

    read = []
    source = Noting([str(row) for row in range(9)], np.eye(9))
    list(Range(source, 2, 7).blocks(2))
    assert read == [2, 3, 4, 5, 6]


def test_parts_of_two_dtypes_give_float32():
    parts = _parts()
    parts[2].array = parts[2].array.astype(np.float16)
    source = Concatenated(parts)
    assert source.rows(np.array([6, 7])).dtype == np.float16
    assert source.rows(np.array([0, 7])).dtype == source.vectors().dtype == np.float32
