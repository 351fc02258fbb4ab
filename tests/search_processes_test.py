"""Several processes, here threads that exchange arrays, against one."""

import threading

import jax
import numpy as np
import pytest
from memory_vectors import MemoryVectors

from ilias_jax.mesh import make_mesh
from ilias_jax.search import processes
from ilias_jax.search.exact import ExactSearch


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
    vectors = rng.integers(-2, 3, (num_rows, 5)).astype(np.float32)  # most scores are tied
    queries = rng.integers(-2, 3, (9, 5)).astype(np.float32)
    query = np.repeat(np.arange(9, dtype=np.int32), 2)
    positive = np.tile(np.array([0, num_rows - 1], np.int32), 9)
    mesh = make_mesh(devices=jax.devices()[:1])

    def ask(shared: bool):
        search = ExactSearch(mesh, 8, quiet=True, shared=shared, any_length=True)
        index = search.open(MemoryVectors(vectors), k)
        return *index.search(queries), *index.count(queries, query, positive)

    alone = ask(shared=False)
    together = _Processes(count)
    monkeypatch.setattr(processes.jax, "process_count", lambda: count)
    monkeypatch.setattr(processes.jax, "process_index", together.index)
    monkeypatch.setattr(processes.multihost_utils, "process_allgather", together.gather)
    for found in together.run(lambda: ask(shared=True)):
        for one, many in zip(alone, found, strict=True):
            np.testing.assert_array_equal(one, many)
            assert one.dtype == many.dtype


def test_every_row_belongs_to_one_process(monkeypatch):
    monkeypatch.setattr(processes.jax, "process_count", lambda: 4)
    for num_rows in (0, 1, 3, 4, 10, 101):
        rows = []
        for index in range(4):
            monkeypatch.setattr(processes.jax, "process_index", lambda index=index: index)
            rows += processes.own_rows(num_rows)
        assert rows == list(range(num_rows))
