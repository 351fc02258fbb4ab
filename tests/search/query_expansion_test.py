"""Query expansion against its definition in plain numpy."""

import numpy as np
import pytest
import rerank_oracle as oracle

from ilias_jax.mesh import make_mesh
from ilias_jax.search.exact import ExactSearch
from ilias_jax.search.pipeline import expand_queries, neighbour_weights


def test_weights_are_scores_to_the_power_of_alpha():
    scores = np.array([[1.0, 0.5, 0.25, 0.0, -0.5]], np.float32)
    for alpha, expected in (
        (0.0, [1, 1, 1, 1, 1]),
        (0.5, [1, 0.5**0.5, 0.5, 0, 0]),
        (1.0, [1, 0.5, 0.25, 0, 0]),
        (3.0, [1, 0.125, 1 / 64, 0, 0]),
        (1000.0, [1, 0, 0, 0, 0]),
    ):
        weights = neighbour_weights(scores, alpha)
        assert weights.dtype == np.float32
        np.testing.assert_allclose(weights, [expected], rtol=1e-6, atol=1e-30)


def test_a_query_whose_mean_is_zero_stays():
    queries = np.array([[1.0, 0.0], [0.0, 1.0]], np.float32)
    scores, opposite = np.ones((2, 1), np.float32), -queries[:1]
    found = expand_queries(queries, scores, np.zeros((2, 1), int), lambda rows: opposite[rows], 0.0)
    np.testing.assert_allclose(found, [[1, 0], [-(0.5**0.5), 0.5**0.5]], rtol=1e-6)


@pytest.mark.parametrize(("count", "alpha"), [(1, 1.0), (4, 0.0), (4, 3.0), (60, 0.5), (60, 1.0)])
def test_expansion_equals_its_definition_over_uneven_shards(tmp_path, count, alpha):
    vectors, queries = oracle.random_unit(0, (60, 8), np.float16), oracle.random_unit(1, (5, 8))
    database = oracle.files_of(tmp_path, vectors, (7, 0, 31, 1, 21))
    search = ExactSearch(make_mesh(), 5, any_length=True)
    scores, rows = search.open(database, count).search(queries)
    found = expand_queries(queries, scores, rows, database.rows, alpha)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, oracle.expanded(queries, vectors, count, alpha), atol=2e-6)


def test_expansion_fetches_every_neighbour_once():
    fetched = []

    def rows(indices: np.ndarray) -> np.ndarray:
        fetched.extend(indices.tolist())
        return np.ones((len(indices), 2), np.float32)

    scores = np.ones((2, 2), np.float32)
    expand_queries(np.ones((2, 2), np.float32), scores, np.array([[5, 3], [3, 9]]), rows, 1.0)
    assert fetched == [3, 5, 9]
