"""Scores of lists against the definition, a pair at a time."""

import numpy as np
import pytest

from ilias_jax.search import list_scores as module
from ilias_jax.search.list_scores import list_scores
from ilias_jax.search.pair_scores import pair_scores


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("pairs_at_once", [64, 1000, 16384])
def test_scores_are_those_of_the_pairs_to_the_bit(monkeypatch, dtype, pairs_at_once):
    monkeypatch.setattr(module, "_PAIRS_AT_ONCE", pairs_at_once)
    rng = np.random.default_rng(0)
    database = rng.normal(size=(300, 24)).astype(dtype)
    queries = rng.normal(size=(17, 24)).astype(dtype)
    rows = rng.integers(-1, 300, size=(17, 41))
    expected = pair_scores(queries, database[rows.ravel()], np.repeat(np.arange(17), 41))
    expected = np.where(rows < 0, -np.inf, expected.reshape(rows.shape))
    found = list_scores(queries, rows, lambda indices: database[indices])
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, expected)


def test_rows_are_fetched_once_and_in_rising_order():
    rng = np.random.default_rng(0)
    database, queries = rng.normal(size=(90, 8)).astype(np.float32), np.ones((40, 8), np.float32)
    rows = np.stack([rng.choice(90, 50, replace=False) for _ in range(40)])
    asked = []

    def fetch(indices):
        asked.append(indices)
        return database[indices]

    list_scores(queries, rows, fetch)
    np.testing.assert_array_equal(np.concatenate(asked), np.unique(rows))


def test_an_error_of_the_database_is_not_lost():
    def fetch(indices):
        raise OSError("disk gone")

    with pytest.raises(OSError, match="disk gone"):
        list_scores(np.ones((2, 4), np.float32), np.zeros((2, 3), np.int64), fetch)


def test_no_candidates_at_all():
    found = list_scores(np.ones((2, 4), np.float32), np.full((2, 3), -1), lambda i: i)
    assert (found == -np.inf).all()
