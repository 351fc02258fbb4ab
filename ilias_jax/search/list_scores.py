"""Exact scores of the candidates that an approximate search has found."""

import concurrent.futures
import dataclasses
import functools
import os
from collections.abc import Iterator
from typing import Protocol, runtime_checkable

import numpy as np

from ilias_jax.search import keys
from ilias_jax.search.pair_scores import pair_scores, scores_of_query
from ilias_jax.vectors import VectorSource

_WINDOW_BYTES = 2**25  # of rows in memory together; larger ones take longer to allocate
_QUERIES_AT_ONCE = 16  # a thread takes
_MAX_THREADS = 16  # more would wait for memory


@runtime_checkable
class _InMemory(Protocol):
    """A source whose rows need not be fetched: the array [N, D] of all of them."""

    array: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class _Window:
    """Some of the database's rows, in memory.

    Attributes:
        rows: [n, D] vectors.
        indices: [n] rising database indices of `rows`; None for all that there are.
    """

    rows: np.ndarray
    indices: np.ndarray | None

    def score(self, queries: np.ndarray, wanted: np.ndarray, scores: np.ndarray) -> None:
        """Writes the scores [b, n] of queries [b, D] with those of rows `wanted` that are here."""
        if self.indices is None:
            for query, row, score in zip(queries, wanted, scores, strict=True):
                score[row >= 0] = scores_of_query(query, self.rows, row[row >= 0])
            return
        here = (wanted >= self.indices[0]) & (wanted <= self.indices[-1])
        places = np.searchsorted(self.indices, wanted[here])
        scores[here] = pair_scores(queries, self.rows.take(places, axis=0), np.nonzero(here)[0])


def best_of_lists(
    queries: np.ndarray, rows: np.ndarray, database: VectorSource, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """The k best of every query's candidates, by the score that `pair_scores` defines.

    The work is done on the host's threads: that is where the rows are, and sending them to a device
    takes as long as scoring them. Rows that are not in memory are fetched in rising order, each
    once however many lists hold it.

    Args:
        queries: [Q, D] float16 or float32.
        rows: [Q, n] database indices, n >= k, none twice in a list; -1 where a list is shorter.
        database: the rows.
        k: length of the lists to return.

    Returns:
        Scores [Q, k] float32, falling, and database indices [Q, k] int32, lower ones first among
        equal scores; -inf and -1 where a list is shorter.
    """
    rows = np.sort(rows, axis=1)
    scores = np.full(rows.shape, -np.inf, np.float32)
    best_scores, best_rows = (
        np.empty((len(rows), k), np.float32),
        np.empty((len(rows), k), np.int32),
    )

    def score(window: _Window, batch: slice) -> None:
        window.score(queries[batch], rows[batch], scores[batch])

    def choose(batch: slice) -> None:
        best_scores[batch], best_rows[batch] = _best(scores[batch], rows[batch], k)

    starts = range(0, len(rows), _QUERIES_AT_ONCE)
    batches = [slice(start, start + _QUERIES_AT_ONCE) for start in starts]
    with concurrent.futures.ThreadPoolExecutor(_num_threads()) as pool:
        for window in _windows(rows, database):
            list(pool.map(functools.partial(score, window), batches))
        list(pool.map(choose, batches))
    return best_scores, best_rows


def _best(scores: np.ndarray, rows: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The first k of lists [Q, n] in the order of a ranking."""
    packed = np.where(rows < 0, keys.LAST, keys.pack(scores, rows))
    packed = np.sort(packed, axis=1)[:, :k]
    return keys.scores_of(packed), np.where(packed == keys.LAST, -1, keys.rows_of(packed))


def _windows(rows: np.ndarray, database: VectorSource) -> Iterator[_Window]:
    """All rows that any list holds."""
    if isinstance(database, _InMemory):
        yield _Window(database.array, None)
        return
    wanted = np.sort(rows, axis=None)  # several times faster than `np.unique`
    wanted = wanted[np.diff(wanted, prepend=-1) > 0]
    if not len(wanted):
        return
    step = max(1, _WINDOW_BYTES // database.rows(wanted[:1]).nbytes)
    for start in range(0, len(wanted), step):
        part = wanted[start : start + step]
        yield _Window(database.rows(part), part)


def _num_threads() -> int:
    return min(os.cpu_count() or 1, _MAX_THREADS)
