"""Exact search against a sort in numpy, on one device and on eight."""

import jax
import numpy as np
import pytest
from etils import epath

from ilias_jax import embeddings
from ilias_jax.mesh import make_mesh
from ilias_jax.search.exact import ExactSearch


def _files(folder, vectors, sizes):
    """Embedding files of the given sizes."""
    paths, start = [], 0
    for i, size in enumerate(sizes):
        part = vectors[start : start + size]
        ids = tuple(f"{i}/{j}" for j in range(size))
        path = epath.Path(folder) / f"{i}.safetensors"
        embeddings.write(path, embeddings.Embeddings(ids, part, np.arange(size), {"n": i}))
        paths.append(path)
        start += size
    return embeddings.EmbeddingFiles(paths)


def _oracle(queries, vectors, k):
    scores = queries.astype(np.float64) @ vectors.astype(np.float64).T
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores, order, 1), order


def _unit(rng, shape, dtype):
    x = rng.normal(size=shape)
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(dtype)


def _integers(rng, shape, dtype):
    """Small integers: products are exact and most scores are tied."""
    return rng.integers(-2, 3, shape).astype(dtype)


CASES = {
    "random": (_unit, (5, 300, 24), (100, 200), 50, np.float32),
    "float16": (_unit, (5, 300, 24), (120, 180), 50, np.float16),
    "ties": (_integers, (7, 400, 6), (150, 0, 250), 60, np.float32),
    "k beyond the database": (_integers, (3, 37, 4), (30, 7), 100, np.float32),
    "one row": (_unit, (3, 1, 8), (1,), 10, np.float32),
    "all equal": (lambda rng, shape, dtype: np.ones(shape, dtype), (2, 90, 4), (90,), 70, "f4"),
}


@pytest.mark.parametrize("num_devices", [1, 8])
@pytest.mark.parametrize("case", CASES)
def test_equals_a_stable_sort(tmp_path, case, num_devices):
    draw, (num_queries, num_rows, dim), sizes, k, dtype = CASES[case]
    rng = np.random.default_rng(1)
    queries, vectors = draw(rng, (num_queries, dim), "f4"), draw(rng, (num_rows, dim), dtype)
    mesh = make_mesh(devices=jax.devices()[:num_devices])
    database = _files(tmp_path, vectors, sizes)
    scores, rows = ExactSearch(mesh, block_rows=7).open(database, k).search(queries)
    expected_scores, expected_rows = _oracle(queries, vectors, k)
    np.testing.assert_array_equal(rows, expected_rows)
    np.testing.assert_allclose(scores, expected_scores, atol=1e-6)
    assert scores.dtype == np.float32
    assert rows.dtype == np.int32


def test_one_and_eight_devices_agree_to_the_bit(tmp_path):
    rng = np.random.default_rng(2)
    queries, vectors = _unit(rng, (40, 192), "f4"), _unit(rng, (5000, 192), np.float16)
    database = _files(tmp_path, vectors, (1777, 3223))
    found = [
        ExactSearch(make_mesh(devices=jax.devices()[:n]), 512).open(database, 1000).search(queries)
        for n in (1, 8)
    ]
    np.testing.assert_array_equal(found[0][1], found[1][1])
    np.testing.assert_array_equal(found[0][0], found[1][0])


def test_negative_zero_ties_with_zero(tmp_path):
    vectors = np.array([[-0.0, 1], [0.0, 1], [-1, 1], [0.0, 1]], np.float32)
    queries = np.array([[1.0, 0.0], [-1.0, 0.0]], np.float32)
    database = _files(tmp_path, vectors, (4,))
    _, rows = ExactSearch(make_mesh(devices=jax.devices()[:1]), 2).open(database, 4).search(queries)
    np.testing.assert_array_equal(rows, [[0, 1, 3, 2], [2, 0, 1, 3]])


def test_no_hidden_transfer_and_one_compile_for_all_blocks(tmp_path):
    rng = np.random.default_rng(3)
    queries, vectors = _unit(rng, (4, 16), "f4"), _unit(rng, (100, 16), "f4")
    database = _files(tmp_path, vectors, (60, 40))
    compiles = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, duration, **_: compiles.append(event) if "backend_compile" in event else None
    )
    search = ExactSearch(make_mesh(), 3)
    with jax.transfer_guard("disallow"):
        search.open(database, 10).search(queries)
    assert len(compiles) <= 2  # the merge of a block, the merge of the partitions
