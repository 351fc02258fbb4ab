"""The definition of a score: the same for few pairs and for many, wherever the row stands."""

import numpy as np
import pytest

from ilias_jax.search.pair_scores import pair_scores, scores_of_query


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
    if num_pairs:
        one = scores_of_query(queries[query[0]], rows, which[:1])
        np.testing.assert_array_equal(one, pair_scores(queries, rows, query[:1], which[:1]))
        each = pair_scores(queries, rows[which], query)
        np.testing.assert_array_equal(each, pair_scores(queries, rows, query, which))


def test_no_zero_is_negative():
    queries, rows = np.array([[-1.0, 0]], np.float32), np.array([[0.0, 1]] * 40, np.float32)
    for count in (1, 40):
        query = np.zeros(count, np.int64)
        assert not np.signbit(pair_scores(queries, rows[:count], query)).any()
