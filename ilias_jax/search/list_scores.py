"""Exact scores of the candidates that an approximate search has found."""

import collections
import concurrent.futures
import os
from collections.abc import Callable

import numpy as np

from ilias_jax.search.pair_scores import pair_scores

# The database rows of so many pairs are in memory at one time, for every thread.
_PAIRS_AT_ONCE = 16384
# Rows and queries of a step stay in a core's own cache.
_STEP = 128
# More would wait for the memory's bandwidth.
_MAX_THREADS = 8


def list_scores(
    queries: np.ndarray, rows: np.ndarray, fetch: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """Scores of every query's own list of database rows, as `pair_scores` defines them.

    All pairs are sorted by database row: each row is fetched about once however many lists hold
    it, and in the order in which files keep them. The arithmetic runs on the host's threads: the
    rows come from there, and to send them to a device takes as long as to score them here.

    Args:
        queries: [Q, D] float16 or float32.
        rows: [Q, n] database indices; -1 where a list is shorter.
        fetch: database rows [m, D] for rising, different indices [m]; called from this thread.

    Returns:
        [Q, n] float32; -inf where a list is shorter. A zero is never negative.
    """
    flat, wide = rows.ravel(), np.asarray(queries, np.float64)
    scores = np.full(flat.shape, -np.inf, np.float32)
    order = np.argsort(flat, kind="stable")
    order = order[np.searchsorted(flat[order], 0) :]
    threads = min(os.cpu_count() or 1, _MAX_THREADS)
    pending: collections.deque[concurrent.futures.Future[None]] = collections.deque()
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        for start in range(0, len(order), _PAIRS_AT_ONCE):
            pairs = order[start : start + _PAIRS_AT_ONCE]
            found, place = np.unique(flat[pairs], return_inverse=True)
            block, query = fetch(found), pairs // rows.shape[1]
            pending.append(pool.submit(_score, scores, pairs, wide, block, place, query))
            if len(pending) > threads:
                pending.popleft().result()
        for future in pending:
            future.result()
    return scores.reshape(rows.shape)


def _score(
    scores: np.ndarray,
    pairs: np.ndarray,
    queries: np.ndarray,
    block: np.ndarray,
    place: np.ndarray,
    query: np.ndarray,
) -> None:
    """Writes the scores of some pairs: rows `place` of a block with queries `query`."""
    for start in range(0, len(pairs), _STEP):
        step = slice(start, start + _STEP)
        scores[pairs[step]] = pair_scores(queries, block.take(place[step], axis=0), query[step])
