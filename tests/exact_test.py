"""Exact search against a sort in numpy, on one device and on eight."""

import jax
import numpy as np
import pytest
from etils import epath

from ilias_jax import embeddings
from ilias_jax.errors import UserError
from ilias_jax.mesh import make_mesh
from ilias_jax.search import exact, product, scan
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
    """Scores rounded as they are defined, and a stable sort."""
    scores = (queries.astype(np.float64) @ vectors.astype(np.float64).T).astype(np.float32)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores, order, 1), order


def _counted(queries, vectors, pairs, k):
    """(at or above, rank) of every pair by looking at all scores, counted to k + 1."""
    scores, order = _oracle(queries, vectors, len(vectors))
    rank_of = np.argsort(order, axis=1)
    found = []
    for query, row in pairs:
        score = scores[query, rank_of[query, row]]
        found.append((np.count_nonzero(scores[query] >= score), rank_of[query, row] + 1))
    return np.minimum(found, k + 1)


def _unit(rng, shape, dtype):
    x = rng.normal(size=shape)
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(dtype)


def _integers(rng, shape, dtype):
    """Small integers: products are exact and most scores are tied."""
    return rng.integers(-2, 3, shape).astype(dtype)


def _copies(rng, shape, dtype):
    """Unit vectors, each several times, far apart: in other blocks and partitions."""
    few = _unit(rng, (shape[0] // 7 + 1, shape[1]), dtype)
    return np.concatenate([few] * 7)[: shape[0]]


def _equal(rng, shape, dtype):
    return np.ones(shape, dtype)


def _crowded(rng, shape, dtype):
    """Nearly the same vector always: bfloat16 tells no two scores apart."""
    x = 1 + 1e-3 * rng.normal(size=shape)
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(dtype)


CASES = {
    "random": (_unit, (5, 300, 24), (100, 200), 50, np.float32),
    "float16": (_unit, (5, 300, 24), (120, 180), 50, np.float16),
    "ties": (_integers, (7, 400, 6), (150, 0, 250), 60, np.float32),
    "copies": (_copies, (9, 400, 16), (1, 399), 31, np.float16),
    "k beyond the database": (_integers, (3, 37, 4), (30, 7), 100, np.float32),
    "one row": (_unit, (3, 1, 8), (1,), 10, np.float32),
    "all equal": (_equal, (2, 90, 4), (90,), 70, np.float32),
    "k = 1": (_copies, (140, 97, 8), (0, 97, 0), 1, np.float32),
    "no negative score": (_integers, (5, 64, 3), (64,), 64, np.float16),
}


@pytest.mark.parametrize("filter_", ["float32", "bfloat16"])
@pytest.mark.parametrize("num_devices", [1, 8])
@pytest.mark.parametrize("case", CASES)
def test_equals_a_stable_sort(tmp_path, case, num_devices, filter_):
    draw, (num_queries, num_rows, dim), sizes, k, dtype = CASES[case]
    rng = np.random.default_rng(1)
    queries, vectors = draw(rng, (num_queries, dim), "f4"), draw(rng, (num_rows, dim), dtype)
    mesh = make_mesh(devices=jax.devices()[:num_devices])
    search = ExactSearch(mesh, block_rows=7, filter=filter_, any_length=True)
    index = search.open(_files(tmp_path, vectors, sizes), k)
    scores, rows = index.search(queries)
    expected_scores, expected_rows = _oracle(queries, vectors, k)
    np.testing.assert_array_equal(rows, expected_rows)
    np.testing.assert_array_equal(scores, expected_scores)
    assert scores.dtype == np.float32
    assert rows.dtype == np.int32

    pairs = [(q, r) for q in range(num_queries) for r in range(q % 3, num_rows, 5)]
    query, positive = np.array(pairs, np.int32).reshape(-1, 2).T
    score, at_or_above, rank = index.count(queries, query, positive)
    expected = _counted(queries, vectors, pairs, min(k, num_rows))
    np.testing.assert_array_equal(np.stack([at_or_above, rank], 1), expected)
    where = np.argsort(_oracle(queries, vectors, num_rows)[1], axis=1)
    np.testing.assert_array_equal(
        score, [_oracle(queries, vectors, num_rows)[0][q, where[q, r]] for q, r in pairs]
    )


@pytest.mark.parametrize("draw", [_crowded, _equal, _copies, _unit])
@pytest.mark.parametrize("filter_", ["float32", "bfloat16"])
def test_more_candidates_than_places(tmp_path, monkeypatch, draw, filter_):
    monkeypatch.setattr(exact, "SPARE_PLACES", 40)  # and blocks of 1,024 rows
    monkeypatch.setattr(exact, "WINDOW_BYTES", 2048 * 16 * 4)
    rng = np.random.default_rng(3)
    queries, vectors = draw(rng, (130, 16), "f4"), draw(rng, (5000, 16), "f4")
    search = ExactSearch(make_mesh(devices=jax.devices()[:2]), 1024, filter_, any_length=True)
    index = search.open(_files(tmp_path, vectors, (5000,)), 13)
    scores, rows = index.search(queries)
    expected_scores, expected_rows = _oracle(queries, vectors, 13)
    np.testing.assert_array_equal(rows, expected_rows)
    np.testing.assert_array_equal(scores, expected_scores)
    pairs = [(q, r) for q in range(0, 130, 9) for r in (0, 3, 1700, 4999)]
    pairs += [(129, r) for r in sorted({*expected_rows[129, [0, 5, 12]]} - {0, 3, 1700, 4999})]
    pairs.sort()
    query, positive = np.array(pairs, np.int32).T
    _, at_or_above, rank = index.count(queries, query, positive)
    expected = _counted(queries, vectors, pairs, 13)
    np.testing.assert_array_equal(np.stack([at_or_above, rank], 1), expected)


@pytest.mark.parametrize(("room", "num_products"), [(0, 50), (4, 46), (100, 40)])
def test_first_scores_are_kept_as_far_as_there_is_room(
    tmp_path, monkeypatch, room: int, num_products: int
):
    """40 blocks of 64 rows, of which 10 are looked at first."""
    monkeypatch.setattr(scan, "_KEPT_BYTES", room * 20 * 64 * 4)
    multiply, calls = product.Product.multiply, []
    monkeypatch.setattr(
        product.Product, "multiply", lambda self, rows: calls.append(1) or multiply(self, rows)
    )
    rng = np.random.default_rng(4)
    queries, vectors = _unit(rng, (20, 32), "f4"), _unit(rng, (2560, 32), "f4")
    search = ExactSearch(make_mesh(devices=jax.devices()[:1]), 64, "float32")
    scores, rows = search.open(_files(tmp_path, vectors, (2560,)), 10).search(queries)
    expected_scores, expected_rows = _oracle(queries, vectors, 10)
    np.testing.assert_array_equal(rows, expected_rows)
    np.testing.assert_array_equal(scores, expected_scores)
    assert len(calls) == num_products


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
    _, rows = (
        ExactSearch(make_mesh(devices=jax.devices()[:1]), 2, any_length=True)
        .open(database, 4)
        .search(queries)
    )
    np.testing.assert_array_equal(rows, [[0, 1, 3, 2], [2, 0, 1, 3]])


def _count_compiles():
    compiles = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, duration, **_: compiles.append(event) if "backend_compile" in event else None
    )
    return compiles


def test_no_hidden_transfer_and_two_compiles_for_all_blocks(tmp_path):
    rng = np.random.default_rng(3)
    queries, vectors = _unit(rng, (4, 16), "f4"), _unit(rng, (600, 16), "f4")
    database = _files(tmp_path, vectors, (560, 40))
    compiles = _count_compiles()
    index = ExactSearch(make_mesh(), 3).open(database, 10)
    with jax.transfer_guard("disallow"):
        index.search(queries)
        index.count(queries, np.array([0, 3]), np.array([7, 99]))
    assert len(compiles) <= 2  # the products of a full block and of the last


@pytest.mark.parametrize("filter_", ["float32", "bfloat16"])
@pytest.mark.parametrize("num_devices", [1, 8])
def test_scores_that_stay_on_the_device(tmp_path, monkeypatch, num_devices, filter_):
    """What accelerators do, on a CPU: the host gets maxima and asks for groups of scores."""
    monkeypatch.setattr(product, "_is_seen_by_host", lambda device: False)
    rng = np.random.default_rng(4)
    queries, vectors = _unit(rng, (33, 16), "f4"), _copies(rng, (5000, 16), np.float16)
    mesh = make_mesh(devices=jax.devices()[:num_devices])
    index = ExactSearch(mesh, 256, filter_, any_length=True).open(
        _files(tmp_path, vectors, (1777, 3223)), 20
    )
    query, positive = np.repeat(np.arange(33, dtype=np.int32), 2), np.arange(66) * 70
    compiles = _count_compiles()
    with jax.transfer_guard("disallow"):
        scores, rows = index.search(queries)
        _, at_or_above, rank = index.count(queries, query, positive)
    # Two products, one without padding, and groups whose number is a power of two, of both.
    assert len(compiles) <= 2 + 2 * num_devices * 16
    expected_scores, expected_rows = _oracle(queries, vectors, 20)
    np.testing.assert_array_equal(rows, expected_rows)
    np.testing.assert_array_equal(scores, expected_scores)
    expected = _counted(queries, vectors, zip(query, positive, strict=True), 20)
    np.testing.assert_array_equal(np.stack([at_or_above, rank], 1), expected)


def test_queries_of_another_length_are_refused(tmp_path):
    database = _files(tmp_path, np.eye(4, dtype=np.float32), (4,))
    index = ExactSearch(make_mesh(), 8).open(database, 2)
    with pytest.raises(
        UserError, match=r"queries have D = 5 and .* D = 4 \(.*0.safetensors, row 0"
    ):
        index.search(np.ones((1, 5), np.float32))


@pytest.mark.parametrize(
    ("value", "message"),
    [(3.0, r"1.safetensors, row 2 \(1/2\) has length 3"), (np.nan, "NaN"), (np.inf, "infin")],
)
@pytest.mark.parametrize("ask", ["search", "count"])
def test_bad_rows_are_refused_with_file_and_row(tmp_path, ask, value, message):
    vectors = np.eye(8, dtype=np.float32)
    database = _files(tmp_path, vectors, (5, 3))
    path = database.paths[1]
    data = bytearray(path.read_bytes())
    good = vectors[7].tobytes()
    at = data.rindex(good)
    data[at : at + len(good)] = np.where(vectors[7] == 1, np.float32(value), 0).tobytes()
    path.write_bytes(bytes(data))
    index = ExactSearch(make_mesh(devices=jax.devices()[:2]), 2).open(database, 2)
    with pytest.raises(UserError, match=message):
        if ask == "search":
            index.search(vectors[:2])
        else:
            index.count(vectors[:2], np.array([0]), np.array([1]))
