"""ScaNN's partitioned index against exact scores."""

import numpy as np
import pytest
from etils import epath

from ilias_jax import embeddings
from ilias_jax.config import ScannConfig
from ilias_jax.errors import UserError
from ilias_jax.search.scann import ScannSearch


def _clustered(rng, num_rows, dim=32):
    centers = rng.normal(size=(20, dim))
    x = centers[rng.integers(20, size=num_rows)] + 0.5 * rng.normal(size=(num_rows, dim))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def _files(folder, vectors):
    path = epath.Path(folder) / "0.safetensors"
    ids = tuple(map(str, range(len(vectors))))
    embeddings.write(path, embeddings.Embeddings(ids, vectors, np.arange(len(ids)), {}))
    return embeddings.EmbeddingFiles([path])


def test_scores_are_exact_and_most_neighbours_are_found(tmp_path):
    rng = np.random.default_rng(0)
    vectors, queries = _clustered(rng, 3000), _clustered(rng, 20)
    scores, rows = ScannSearch(ScannConfig()).open(_files(tmp_path, vectors), 100).search(queries)
    exact = queries @ vectors.T
    np.testing.assert_allclose(scores, np.take_along_axis(exact, rows, 1), atol=1e-6)
    assert (np.diff(scores, axis=1) <= 0).all()
    best = np.argsort(-exact, axis=1)[:, :100]
    overlap = np.mean([np.isin(a, b).mean() for a, b in zip(best, rows, strict=True)])
    assert overlap > 0.9
    assert all(len(set(row)) == 100 for row in rows)


@pytest.mark.parametrize("num_rows", [1, 40, 999])
def test_small_databases_are_searched_whole_and_keep_the_lower_index(tmp_path, num_rows):
    vectors = np.repeat(np.eye(4, dtype=np.float32), 250, axis=0)[:num_rows]
    queries = np.eye(4, dtype=np.float32)
    scores, rows = ScannSearch(ScannConfig()).open(_files(tmp_path, vectors), 1000).search(queries)
    order = np.argsort(-(queries @ vectors.T), axis=1, kind="stable")
    np.testing.assert_array_equal(rows, order)
    np.testing.assert_array_equal(scores, np.take_along_axis(queries @ vectors.T, order, 1))


def test_long_lists_visit_more_partitions_instead_of_inventing_rows(tmp_path):
    rng = np.random.default_rng(0)
    vectors, queries = _clustered(rng, 1500), _clustered(rng, 5)
    _, rows = (
        ScannSearch(ScannConfig(num_leaves=40))
        .open(_files(tmp_path, vectors), 1400)
        .search(queries)
    )
    assert rows.shape == (5, 1400)
    assert all(len(set(row)) == 1400 for row in rows)


def test_too_few_partitions_by_request_are_an_error(tmp_path):
    rng = np.random.default_rng(0)
    vectors, queries = _clustered(rng, 1500), _clustered(rng, 5)
    search = ScannSearch(ScannConfig(num_leaves=40, num_leaves_to_search=1))
    with pytest.raises(
        UserError, match="num_leaves_to_search=1 of 40 leaves gives .* fewer than k=1000"
    ):
        search.open(_files(tmp_path, vectors), 1000).search(queries)


def test_more_leaves_than_rows_are_an_error(tmp_path):
    vectors = np.eye(4, dtype=np.float32)
    with pytest.raises(UserError, match="num_leaves=5 exceeds 4 rows"):
        ScannSearch(ScannConfig(num_leaves=5)).open(_files(tmp_path, vectors), 2).search(vectors)
