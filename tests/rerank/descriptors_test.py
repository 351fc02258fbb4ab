"""Local descriptors in rows of a file."""

import numpy as np
import pytest

from ilias_jax.rerank.descriptors import Descriptors, from_rows, mutual_matches, to_rows

COUNTS = [5, 0, 3]


def _found(dim: int = 16) -> np.ndarray:
    """[3, 5, 3 + dim] as a device gives them."""
    rng = np.random.default_rng(0)
    found = rng.standard_normal((3, 5, 3 + dim)).astype(np.float32)
    found[..., :2] = rng.random((3, 5, 2))
    for row, count in zip(found, COUNTS, strict=True):
        row[count:, :2] = -1
    return found


@pytest.mark.parametrize("storage", ["float32", "float16", "bits"])
def test_rows_hold_what_was_found(storage):
    found = _found()
    rows = to_rows(found.reshape(3, -1), 5, storage)
    assert rows.dtype == (np.uint8 if storage == "bits" else storage)
    assert rows.shape == (3, 5 * (6 + 2 if storage == "bits" else 3 + 16))
    back = from_rows(rows, 5)
    assert back.counts.tolist() == COUNTS
    short = np.float32 if storage == "float32" else np.float16
    expected = np.where(back.mask[..., None], found, 0).astype(short)
    np.testing.assert_array_equal(back.locations, expected[..., :2])
    np.testing.assert_array_equal(back.weights, expected[..., 2])
    values = np.sign(expected[..., 3:]) if storage == "bits" else expected[..., 3:]
    np.testing.assert_array_equal(back.dense(), values)


def test_a_weight_beyond_float16_is_its_largest():
    found = _found()
    found[0, 0, 2] = 1e6
    assert from_rows(to_rows(found.reshape(3, -1), 5, "float16"), 5).weights[0, 0] == 65504


def test_bits_come_highest_first():
    found = np.full((1, 1, 3 + 8), -1.0, np.float32)
    found[0, 0, [0, 1, 3]] = 0.5, 0.5, 1.0
    assert from_rows(to_rows(found.reshape(1, -1), 1, "bits"), 1).values.tolist() == [[[128]]]


def test_the_strongest_are_the_first():
    back = from_rows(to_rows(_found().reshape(3, -1), 5, "float32"), 5)
    cut = back.strongest(2)
    assert cut.counts.tolist() == [2, 0, 2]
    np.testing.assert_array_equal(cut.values, back.values[:, :2])
    taken = back.take(np.array([[2, 2], [0, 1]]))
    assert isinstance(taken, Descriptors) and taken.values.shape == (2, 2, 5, 16)


def test_places_match_where_each_is_the_others_nearest():
    """The second of the query is nearest to the first of the image, which prefers another one."""
    values = np.array([[[1, 0], [0.9, 0.1], [0, 1]], [[0, 2], [2, 0], [0, 0]]], np.float32)
    locations = np.arange(12, dtype=np.float32).reshape(2, 3, 2) / 12
    both = Descriptors(values, locations, np.ones((2, 3), np.float32), np.array([3, 2], np.int32))
    query, image = both.take(np.array([0])), both.take(np.array([1]))
    found = mutual_matches(query, image, 5)
    expected = [[*locations[0, 0], *locations[1, 1]], [*locations[0, 2], *locations[1, 0]]]
    np.testing.assert_array_equal(found, expected)
    assert len(mutual_matches(query, image, 1)) == 1
    empty = Descriptors(
        *(array[1:] for array in (values, locations)), np.zeros((1, 3)), np.array([0])
    )
    assert mutual_matches(query, empty, 5).shape == (0, 4)
