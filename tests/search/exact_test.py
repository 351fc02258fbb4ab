"""Exact search against a sort in numpy, on one device and on several, in one process and in several."""

import threading

import jax
import numpy as np
import pytest
import rerank_oracle as oracle
from embedding_reader import alter
from memory_vectors import MemoryVectors

from ilias_jax.errors import UserError
from ilias_jax.mesh import make_mesh
from ilias_jax.search import exact, filter
from ilias_jax.search.exact import ExactSearch
from ilias_jax.search.topk import BestRows


def _oracle(queries, vectors, k):
    """Scores rounded as they are defined, and a stable sort."""
    scores = (queries.astype(np.float64) @ vectors.astype(np.float64).T).astype(np.float32)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores, order, 1), order


def _assert_exact(found, queries, vectors, k):
    scores, rows = _oracle(queries, vectors, k)
    np.testing.assert_array_equal(found[1], rows)
    np.testing.assert_array_equal(found[0], scores)
    assert found[0].dtype == np.float32 and found[1].dtype == np.int32


def _unit(rng, shape, dtype):
    return oracle.unit(rng.normal(size=shape)).astype(dtype)


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
    return oracle.unit(1 + 1e-3 * rng.normal(size=shape)).astype(dtype)


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
MESHES = [
    (1, "float32"),
    (2, "bfloat16"),
    pytest.param(8, "bfloat16", marks=pytest.mark.eight_devices),
]


@pytest.mark.parametrize(("num_devices", "filter_"), MESHES)
@pytest.mark.parametrize("case", CASES)
def test_equals_a_stable_sort(tmp_path, case, num_devices, filter_):
    draw, (num_queries, num_rows, dim), sizes, k, dtype = CASES[case]
    rng = np.random.default_rng(1)
    queries, vectors = draw(rng, (num_queries, dim), "f4"), draw(rng, (num_rows, dim), dtype)
    mesh = make_mesh(devices=jax.devices()[:num_devices])
    search = ExactSearch(mesh, block_rows=7, filter=filter_, any_length=True)
    index = search.open(oracle.files_of(tmp_path, vectors, sizes), k)
    _assert_exact(index.search(queries), queries, vectors, k)


@pytest.mark.parametrize("draw", [_crowded, _equal, _copies, _unit])
@pytest.mark.parametrize("filter_", ["float32", "bfloat16"])
def test_more_candidates_than_room(monkeypatch, draw, filter_):
    monkeypatch.setattr(exact, "SPARE_PLACES", 40)
    monkeypatch.setattr(exact, "WINDOW_BYTES", 1024 * 16 * 4)  # two blocks
    monkeypatch.setattr(exact, "_QUERIES_AT_ONCE", 16)
    squeezed, squeeze = [], BestRows._squeeze_in
    monkeypatch.setattr(
        BestRows, "_squeeze_in", lambda *arguments: squeezed.append(1) or squeeze(*arguments)
    )
    rng = np.random.default_rng(3)
    queries, vectors = draw(rng, (21, 16), "f4"), draw(rng, (1700, 16), "f4")
    search = ExactSearch(make_mesh(), 256, filter_, any_length=True)
    found = search.open(MemoryVectors(vectors), 13).search(queries)
    _assert_exact(found, queries, vectors, 13)
    assert draw is not _equal or squeezed  # the last resort was needed


@pytest.mark.parametrize(("room", "num_products"), [(0, 50), (4, 46), (100, 40)])
def test_first_scores_are_kept_as_far_as_there_is_room(monkeypatch, room, num_products):
    """40 blocks of 64 rows, of which 10 are looked at first."""
    monkeypatch.setattr(exact, "_KEPT_BYTES", room * 20 * 64 * 4)
    multiply, calls = filter.Product.multiply, []
    monkeypatch.setattr(
        filter.Product, "multiply", lambda self, rows: calls.append(1) or multiply(self, rows)
    )
    rng = np.random.default_rng(4)
    queries, vectors = _unit(rng, (20, 32), "f4"), _unit(rng, (2560, 32), "f4")
    search = ExactSearch(make_mesh(devices=jax.devices()[:1]), 64, "float32")
    found = search.open(MemoryVectors(vectors), 10).search(queries)
    _assert_exact(found, queries, vectors, 10)
    assert len(calls) == num_products


def test_negative_zero_ties_with_zero():
    vectors = np.array([[-0.0, 1], [0.0, 1], [-1, 1], [0.0, 1]], np.float32)
    queries = np.array([[1.0, 0.0], [-1.0, 0.0]], np.float32)
    search = ExactSearch(make_mesh(devices=jax.devices()[:1]), 2, any_length=True)
    _, rows = search.open(MemoryVectors(vectors), 4).search(queries)
    np.testing.assert_array_equal(rows, [[0, 1, 3, 2], [2, 0, 1, 3]])


def _count_compiles():
    compiles = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, duration, **_: compiles.append(event) if "backend_compile" in event else None
    )
    return compiles


def test_no_hidden_transfer_and_two_compiles_for_all_blocks(tmp_path):
    rng = np.random.default_rng(3)
    queries, vectors = _unit(rng, (4, 17), "f4"), _unit(rng, (600, 17), "f4")
    database = oracle.files_of(tmp_path, vectors, (560, 40))
    compiles = _count_compiles()
    index = ExactSearch(make_mesh(), 3).open(database, 10)
    with jax.transfer_guard("disallow"):
        index.search(queries)
        index.search(queries[::-1])
    assert len(compiles) <= 2  # the products of a full block and of the last


@pytest.mark.parametrize(("num_devices", "filter_"), MESHES)
def test_scores_that_stay_on_the_device(monkeypatch, num_devices, filter_):
    """What accelerators do, on a CPU: the host gets maxima and asks for groups of scores."""
    monkeypatch.setattr(filter, "_is_seen_by_host", lambda device: False)
    rng = np.random.default_rng(4)
    queries, vectors = _unit(rng, (33, 16), "f4"), _copies(rng, (3000, 16), np.float16)
    mesh = make_mesh(devices=jax.devices()[:num_devices])
    index = ExactSearch(mesh, 256, filter_, any_length=True).open(MemoryVectors(vectors), 20)
    compiles = _count_compiles()
    with jax.transfer_guard("disallow"):
        found = index.search(queries)
    # Two products, one without padding, and groups whose number is a power of two, of both.
    assert len(compiles) <= 2 + 2 * num_devices * 16
    _assert_exact(found, queries, vectors, 20)


@pytest.mark.parametrize(
    ("value", "message"),
    [(3.0, r"1.safetensors, row 2 \(1/2\) has length 3"), (np.nan, "NaN"), (np.inf, "infin")],
)
def test_bad_rows_are_refused_with_file_and_row(tmp_path, value, message):
    vectors = np.eye(8, dtype=np.float32)
    database = oracle.files_of(tmp_path, vectors, (5, 3))
    path = database.paths[1]
    alter(path, lambda rows: np.where((rows == 1) & (vectors[7] == 1), np.float32(value), rows))
    index = ExactSearch(make_mesh(), 2).open(database, 2)
    with pytest.raises(UserError, match=message):
        index.search(vectors[:2])


class _Processes:
    """Stands for the processes of a distributed program: one thread is one process."""

    def __init__(self, count: int) -> None:
        self.count, self._own = count, threading.local()
        self._barrier, self._given = threading.Barrier(count), [None] * count

    def index(self) -> int:
        return self._own.index

    def gather(self, arrays):
        self._given[self.index()] = arrays
        self._barrier.wait()
        gathered = tuple(np.stack(each) for each in zip(*self._given, strict=True))
        self._barrier.wait()
        return gathered

    def run(self, work) -> list:
        results = [None] * self.count

        def call(index: int) -> None:
            self._own.index = index
            results[index] = work()

        threads = [threading.Thread(target=call, args=(i,)) for i in range(self.count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return results


@pytest.mark.parametrize(
    ("num_rows", "count", "k"), [(100, 3, 40), (7, 3, 7), (2, 5, 2), (64, 2, 1)]
)
def test_processes_find_what_one_finds(monkeypatch, num_rows, count, k):
    rng = np.random.default_rng(0)
    vectors = _integers(rng, (num_rows, 5), "f4")  # most scores are tied
    queries = _integers(rng, (9, 5), "f4")
    mesh = make_mesh(devices=jax.devices()[:1])
    together = _Processes(count)
    monkeypatch.setattr(exact.jax, "process_count", lambda: count)
    monkeypatch.setattr(exact.jax, "process_index", together.index)
    monkeypatch.setattr(exact.multihost_utils, "process_allgather", together.gather)
    read = []

    def ask():
        search = ExactSearch(mesh, 8, shared=True, any_length=True)
        index = search.open(MemoryVectors(vectors), k)
        read.extend(index._own_rows())
        return index.search(queries)

    for found in together.run(ask):
        _assert_exact(found, queries, vectors, k)
    assert sorted(read) == list(range(num_rows))  # each row by one process
