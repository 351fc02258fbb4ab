"""The best of lists of candidates against the definition, a pair at a time."""

import numpy as np
import pytest

from ilias_jax.search import list_scores as module
from ilias_jax.search.list_scores import best_of_lists
from ilias_jax.search.pair_scores import pair_scores, scores_of_query


class _Fetched:
    """Rows that are not in memory, and what was asked of them."""

    def __init__(self, rows):
        self._rows, self.asked = rows, []

    def num_rows(self):
        return len(self._rows)

    def rows(self, indices):
        self.asked.append(indices)
        return self._rows[indices]


class _Held:
    """Rows in memory, which nobody need fetch."""

    def __init__(self, array):
        self.array = array

    def num_rows(self):
        return len(self.array)


def _case(dtype=np.float32):
    """Vectors with equal rows, and lists that differ in length."""
    rng = np.random.default_rng(0)
    database = rng.normal(size=(300, 24)).astype(dtype)
    database[200:] = database[:100]
    queries = rng.normal(size=(37, 24)).astype(dtype)
    rows = np.stack([rng.choice(300, 80, replace=False) for _ in range(37)])
    rows[3, ::2] = -1
    rows[4] = -1
    return queries, database, rows


def _expected(queries, database, rows, k):
    scores = np.full((len(rows), k), -np.inf, np.float32)
    found = np.full((len(rows), k), -1)
    for i, row in enumerate(rows):
        row = row[row >= 0]
        exact = pair_scores(queries, database[row], np.full(len(row), i))
        order = np.lexsort((row, -exact))[:k]
        scores[i, : len(order)], found[i, : len(order)] = exact[order], row[order]
    return scores, found


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("source", [_Held, _Fetched])
@pytest.mark.parametrize("window_rows", [1, 50, 1000])
def test_lists_are_those_of_the_definition_to_the_bit(monkeypatch, dtype, source, window_rows):
    queries, database, rows = _case(dtype)
    monkeypatch.setattr(module, "_WINDOW_BYTES", window_rows * database[0].nbytes)
    scores, found = best_of_lists(queries, rows, source(database), 60)
    expected_scores, expected_rows = _expected(queries, database, rows, 60)
    assert scores.dtype == np.float32 and found.dtype == np.int32
    np.testing.assert_array_equal(scores, expected_scores)
    np.testing.assert_array_equal(found, expected_rows)


def test_rows_are_fetched_once_and_in_rising_order(monkeypatch):
    queries, database, rows = _case()
    monkeypatch.setattr(module, "_WINDOW_BYTES", 50 * database[0].nbytes)
    source = _Fetched(database)
    best_of_lists(queries, rows, source, 10)
    asked = [indices for indices in source.asked if len(indices) > 1]  # one asks for the size
    assert max(map(len, asked)) == 50
    np.testing.assert_array_equal(np.concatenate(asked), np.unique(rows[rows >= 0]))


def test_no_candidates_at_all():
    for source in (_Held, _Fetched):
        scores, rows = best_of_lists(np.ones((2, 4)), np.full((2, 3), -1), source(np.eye(4)), 2)
        assert (scores == -np.inf).all() and (rows == -1).all()


def test_an_error_of_the_database_is_not_lost():
    class Broken(_Fetched):
        def rows(self, indices):
            raise OSError("disk gone")

    with pytest.raises(OSError, match="disk gone"):
        best_of_lists(np.ones((2, 4)), np.zeros((2, 3), np.int64), Broken(np.eye(4)), 1)


def test_an_error_in_a_thread_is_not_lost():
    with pytest.raises(IndexError, match="out of bounds"):
        best_of_lists(np.ones((2, 4)), np.full((2, 1), 3), _Held(np.eye(4)[:3]), 1)


@pytest.mark.parametrize("count", [0, 1, 255, 256, 700])
def test_scores_of_one_query_are_those_of_its_pairs(count):
    rng = np.random.default_rng(0)
    database, query = rng.normal(size=(90, 40)).astype(np.float16), rng.normal(size=40)
    which = rng.integers(90, size=count)
    expected = pair_scores(query[None], database[which], np.zeros(count, int))
    np.testing.assert_array_equal(scores_of_query(query, database, which), expected)
