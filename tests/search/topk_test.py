"""The score of a pair, the order of keys, and the best of lists of candidates, by the definition."""

import numpy as np
import pytest

from ilias_jax.search import topk
from ilias_jax.search.topk import LAST, best_of_lists, pack, pair_scores, rows_of, scores_of


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("num_pairs", [0, 1, 40, 5000])
def test_scores_are_correctly_rounded_sums(dtype, num_pairs):
    rng = np.random.default_rng(0)
    queries = rng.normal(size=(7, 33)).astype(np.float32)
    rows = rng.normal(size=(50, 33)).astype(dtype)
    query, which = rng.integers(0, 7, num_pairs), rng.integers(0, 50, num_pairs)
    wide = queries.astype(np.float64) @ rows.astype(np.float64).T
    for order in (slice(None), np.argsort(query, kind="stable")):  # short runs, and long ones
        found = pair_scores(queries, rows, query[order], which[order])
        assert found.dtype == np.float32
        expected = wide[query[order], which[order]].astype(np.float32)
        np.testing.assert_array_equal(found, expected)


def test_no_zero_is_negative():
    queries, rows = np.array([[-1.0, 0]], np.float32), np.array([[0.0, 1]] * 40, np.float32)
    for count in (1, 40):
        scores = pair_scores(queries, rows, np.zeros(count, np.int64), np.arange(count))
        assert not np.signbit(scores).any()


def test_keys_sort_as_a_ranking_and_give_scores_and_rows_back():
    scores = np.array([0.5, -0.5, 0.5, 0, 2, -3e-39, 1e-39, np.finfo("f4").min], np.float32)
    rows = np.array([7, 1, 2**31 - 1, 0, 5, 3, 4, 6])
    order = np.lexsort((rows, -scores))
    keys = np.sort(np.append(pack(scores, rows), LAST))
    np.testing.assert_array_equal(scores_of(keys), [*scores[order], -np.inf])
    np.testing.assert_array_equal(rows_of(keys[:-1]), rows[order])


class _Database:
    """Rows, and what was asked of them."""

    def __init__(self, rows):
        self._rows, self.asked = rows, []

    def num_rows(self):
        return len(self._rows)

    def rows(self, indices):
        self.asked.append(indices)
        return self._rows[indices]


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
        exact = pair_scores(queries, database, np.full(len(row), i), row)
        order = np.lexsort((row, -exact))[:k]
        scores[i, : len(order)], found[i, : len(order)] = exact[order], row[order]
    return scores, found


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("window_rows", [1, 50, 1000])
def test_lists_are_those_of_the_definition_to_the_bit(monkeypatch, dtype, window_rows):
    queries, database, rows = _case(dtype)
    monkeypatch.setattr(topk, "_WINDOW_BYTES", window_rows * database[0].nbytes)
    scores, found = best_of_lists(queries, rows, _Database(database), 60)
    expected_scores, expected_rows = _expected(queries, database, rows, 60)
    assert scores.dtype == np.float32 and found.dtype == np.int32
    np.testing.assert_array_equal(scores, expected_scores)
    np.testing.assert_array_equal(found, expected_rows)


def test_rows_are_fetched_once_and_in_rising_order(monkeypatch):
    queries, database, rows = _case()
    monkeypatch.setattr(topk, "_WINDOW_BYTES", 50 * database[0].nbytes)
    source = _Database(database)
    best_of_lists(queries, rows, source, 10)
    asked = [indices for indices in source.asked if len(indices) > 1]  # one asks for the size
    assert max(map(len, asked)) == 50
    np.testing.assert_array_equal(np.concatenate(asked), np.unique(rows[rows >= 0]))


def test_no_candidates_at_all():
    database = _Database(np.eye(4))
    scores, rows = best_of_lists(np.ones((2, 4)), np.full((2, 3), -1), database, 2)
    assert (scores == -np.inf).all() and (rows == -1).all()


def test_an_error_of_the_database_or_of_a_thread_is_not_lost():
    class Broken(_Database):
        def rows(self, indices):
            raise OSError("disk gone")

    with pytest.raises(OSError, match="disk gone"):
        best_of_lists(np.ones((2, 4)), np.zeros((2, 3), np.int64), Broken(np.eye(4)), 1)
    with pytest.raises(ValueError):  # queries of another length
        best_of_lists(np.ones((2, 5)), np.zeros((2, 3), np.int64), _Database(np.eye(4)), 1)
