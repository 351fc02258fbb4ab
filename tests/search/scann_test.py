"""ScaNN's partitioned index against exact scores."""

import gc

import numpy as np
import pytest
from memory_vectors import MemoryVectors, clustered

from ilias_jax.config import ScannConfig
from ilias_jax.errors import UserError
from ilias_jax.search import scann
from ilias_jax.search.scann import ScannSearch, part_bytes
from ilias_jax.search.topk import pair_scores

DIM = 32


def _memory_for(num_rows, **options):
    """A budget in GB that so many rows fit, and not many more."""
    return part_bytes(ScannConfig(**options), num_rows, DIM) / 1e9


def _exact(queries, vectors, k):
    """Scores and indices [Q, k] by the definition."""
    count = len(vectors)
    pairs = np.repeat(np.arange(len(queries)), count)
    scores = pair_scores(queries, vectors, pairs, np.tile(np.arange(count), len(queries)))
    scores = scores.reshape(len(queries), count)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores, order, 1), order


def _overlap(a, b):
    return np.mean([np.isin(x, y).mean() for x, y in zip(a, b, strict=True)])


def test_scores_are_exact_and_most_neighbours_are_found():
    rng = np.random.default_rng(0)
    vectors, queries = clustered(rng, 3000), clustered(rng, 20)
    scores, rows = ScannSearch(ScannConfig()).open(MemoryVectors(vectors), 100).search(queries)
    assert scores.dtype == np.float32 and rows.dtype == np.int32
    pairs = np.repeat(np.arange(20), 100)
    np.testing.assert_array_equal(
        scores.ravel(), pair_scores(queries, vectors, pairs, rows.ravel())
    )
    assert (np.diff(scores, axis=1) <= 0).all()
    assert _overlap(_exact(queries, vectors, 100)[1], rows) > 0.9
    assert all(len(set(row)) == 100 for row in rows)


@pytest.mark.parametrize("soar_lambda", [0.0, 1.5])
def test_parts_give_what_one_index_gives(soar_lambda):
    rng = np.random.default_rng(0)
    vectors, queries = clustered(rng, 6000), clustered(rng, 30)
    expected = _exact(queries, vectors, 50)[1]
    overlaps, counts = [], []
    for memory in (8.0, _memory_for(1600)):
        config = ScannConfig(memory_gb=memory, reorder=200, soar_lambda=soar_lambda)
        index = ScannSearch(config).open(MemoryVectors(vectors), 50)
        scores, rows = index.search(queries)
        assert all(len(set(row)) == 50 for row in rows)
        overlaps.append(_overlap(expected, rows))
        counts.append(index.facts()["num_parts"])
    assert counts[0] == 1 and counts[1] >= 4
    assert min(overlaps) > 0.95 and abs(overlaps[0] - overlaps[1]) < 0.05


def test_with_all_leaves_and_all_candidates_the_search_is_exact_in_any_parts():
    # k is larger than a part, and rows come again across parts.
    rng = np.random.default_rng(0)
    vectors = clustered(rng, 3000)
    vectors[2000:2700] = vectors[:700]
    queries = np.concatenate([clustered(rng, 5), vectors[:3]])
    config = ScannConfig(
        memory_gb=_memory_for(1100, num_leaves=10),
        num_leaves=10,
        num_leaves_to_search=10,
        reorder=3000,
    )
    index = ScannSearch(config).open(MemoryVectors(vectors), 1200)
    assert index.facts()["num_parts"] == 3
    scores, rows = index.search(queries)
    expected_scores, expected_rows = _exact(queries, vectors, 1200)
    np.testing.assert_array_equal(scores, expected_scores)
    np.testing.assert_array_equal(rows, expected_rows)


@pytest.mark.parametrize("num_rows", [1, 40, 999])
def test_small_databases_are_searched_whole_and_keep_the_lower_index(num_rows):
    vectors = np.repeat(np.eye(4, dtype=np.float32), 250, axis=0)[:num_rows]
    queries = np.eye(4, dtype=np.float32)
    index = ScannSearch(ScannConfig()).open(MemoryVectors(vectors), 1000)
    scores, rows = index.search(queries)
    order = np.argsort(-(queries @ vectors.T), axis=1, kind="stable")
    np.testing.assert_array_equal(rows, order)
    np.testing.assert_array_equal(scores, np.take_along_axis(queries @ vectors.T, order, 1))
    assert index.facts()["num_leaves"] == 1 and index.facts()["index_bytes"] == 0


def test_equal_rows_keep_the_lower_index_first():
    vectors = np.tile(np.eye(4, dtype=np.float32), (600, 1))
    config = ScannConfig(num_leaves=4, num_leaves_to_search=4, reorder=2400)
    _, rows = ScannSearch(config).open(MemoryVectors(vectors), 1000).search(np.eye(4)[:1])
    np.testing.assert_array_equal(rows[0, :600], np.arange(0, 2400, 4))
    assert (np.diff(rows[0, 600:]) > 0).all()


def test_long_lists_visit_more_leaves_instead_of_inventing_rows():
    rng = np.random.default_rng(0)
    vectors, queries = clustered(rng, 20_000, dim=8), clustered(rng, 5, dim=8)
    index = ScannSearch(ScannConfig(num_leaves=400)).open(MemoryVectors(vectors), 900)
    # Its own choice would be enough; as if the leaves were very uneven:
    index.plan = index.plan.__class__(**{**vars(index.plan), "num_leaves_to_search": 1})
    _, rows = index.search(queries)
    assert rows.shape == (5, 900)
    assert all(len(set(row)) == 900 for row in rows)
    assert index.facts()["num_leaves_to_search"] > 1


def test_too_few_leaves_by_request_are_an_error():
    rng = np.random.default_rng(0)
    vectors, queries = clustered(rng, 1500), clustered(rng, 5)
    search = ScannSearch(ScannConfig(num_leaves=40, num_leaves_to_search=1))
    with pytest.raises(UserError, match="num_leaves_to_search=1 of 40 leaves .* fewer than k=1000"):
        search.open(MemoryVectors(vectors), 1000).search(queries)


def test_more_leaves_than_rows_are_an_error():
    vectors = np.eye(4, dtype=np.float32)
    with pytest.raises(UserError, match="num_leaves=5 exceeds 4 rows"):
        ScannSearch(ScannConfig(num_leaves=5)).open(MemoryVectors(vectors), 2).search(vectors)


def test_half_precision_rows_and_queries():
    rng = np.random.default_rng(0)
    vectors, queries = clustered(rng, 2000).astype(np.float16), clustered(rng, 4).astype(np.float16)
    config = ScannConfig(num_leaves=10, num_leaves_to_search=10, reorder=2000)
    scores, rows = ScannSearch(config).open(MemoryVectors(vectors), 60).search(queries)
    expected_scores, expected_rows = _exact(queries, vectors, 60)
    np.testing.assert_array_equal(scores, expected_scores)
    np.testing.assert_array_equal(rows, expected_rows)


def test_parts_that_fit_are_loaded_once_and_others_for_every_search(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    vectors, queries = clustered(rng, 3000), clustered(rng, 4)
    loaded = []
    real = scann.load_part
    monkeypatch.setattr(scann, "load_part", lambda *a: loaded.append(a[0].name) or real(*a))
    config = ScannConfig(memory_gb=_memory_for(1600))
    index = ScannSearch(config).open(MemoryVectors(vectors), 10)
    first = index.search(queries)
    assert len(loaded) == 2
    np.testing.assert_array_equal(index.search(queries)[1], first[1])
    assert len(loaded) == 2
    index.held = ()
    np.testing.assert_array_equal(index.search(queries)[1], first[1])
    assert len(loaded) == 4


def test_a_temporary_folder_goes_with_the_index():
    index = ScannSearch(ScannConfig()).open(
        MemoryVectors(clustered(np.random.default_rng(0), 1200)), 10
    )
    folder = index.folder
    assert folder.exists()
    del index
    gc.collect()
    assert not folder.exists() and not folder.parent.exists()
