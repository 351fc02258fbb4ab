"""Query expansion and database averaging against their definition in plain numpy."""

import jax
import numpy as np
import pytest
import rerank_oracle as oracle

from ilias_jax.errors import UserError
from ilias_jax.mesh import make_mesh
from ilias_jax.rerank import database_averaging
from ilias_jax.rerank.database_averaging import average_database, check_memory
from ilias_jax.rerank.mean import neighbour_weights, weighted_mean
from ilias_jax.rerank.query_expansion import expand_queries
from ilias_jax.search.exact import ExactSearch


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


def test_a_vector_whose_mean_is_zero_stays():
    own = np.array([[1.0, 0.0], [0.0, 1.0]], np.float32)
    mean = weighted_mean(own, -own, np.array([[0], [0]]), np.ones((2, 1), np.float32))
    np.testing.assert_allclose(mean, [[1, 0], [-(0.5**0.5), 0.5**0.5]], rtol=1e-6)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0, 3.0])
@pytest.mark.parametrize("count", [1, 4, 60])
def test_expansion_equals_its_definition_over_uneven_shards(tmp_path, count, alpha):
    vectors, queries = oracle.random_unit(0, (60, 8), np.float16), oracle.random_unit(1, (5, 8))
    database = oracle.files_of(tmp_path, vectors, (7, 0, 31, 1, 21))
    scores, rows = (
        ExactSearch(make_mesh(), 5, any_length=True).open(database, count).search(queries)
    )
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


def _average(vectors: np.ndarray, count: int, alpha: float, devices: int = 8, block_rows: int = 9):
    class Memory:
        def num_rows(self) -> int:
            return len(vectors)

        def rows(self, indices):
            return vectors[indices]

        def blocks(self, num_rows: int):
            return (vectors[i : i + num_rows] for i in range(0, len(vectors), num_rows))

    mesh = make_mesh(devices=jax.devices()[:devices])
    index = ExactSearch(mesh, block_rows, quiet=True).open(Memory(), count + 1)
    return average_database(vectors, index.search, count, alpha)


@pytest.mark.parametrize("alpha", [0.0, 1.0, 3.0])
@pytest.mark.parametrize("count", [1, 5, 200])
def test_averaging_equals_its_definition(monkeypatch, count, alpha):
    monkeypatch.setattr(database_averaging, "_BLOCK", 16)
    vectors = oracle.random_unit(2, (75, 6))
    found = _average(vectors, count, alpha)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, oracle.averaged(vectors, count, alpha), atol=2e-6)


def test_averaging_does_not_depend_on_devices_or_blocks_of_vectors_that_ask(monkeypatch):
    vectors = oracle.random_unit(3, (700, 64))
    found = []
    for devices, block in ((1, 700), (8, 700), (8, 128), (1, 128)):
        monkeypatch.setattr(database_averaging, "_BLOCK", block)
        found.append(_average(vectors, 5, 1.0, devices, block_rows=64))
    for other in found[1:]:
        np.testing.assert_allclose(other, found[0], atol=1e-6)
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[2], found[3])


def test_vectors_that_equal_more_others_than_they_have_neighbours():
    vectors = np.repeat(oracle.random_unit(4, (3, 5)), 6, axis=0)  # six copies each
    np.testing.assert_allclose(_average(vectors, 2, 1.0), vectors, atol=1e-6)


def test_a_single_vector_has_no_neighbour():
    vectors = oracle.random_unit(5, (1, 4))
    np.testing.assert_allclose(_average(vectors, 3, 1.0), vectors, atol=1e-6)


def test_a_database_that_does_not_fit_is_refused_with_its_bytes():
    check_memory(2**20, 1024, 8.0)
    with pytest.raises(
        UserError,
        match=r"needs 40,960,000,000 bytes \(38.1 GiB\) for 5,000,000 vectors of 1024 channels, "
        r"more than rerank.database_averaging_gib=8; raise",
    ):
        check_memory(5_000_000, 1024, 8.0)
