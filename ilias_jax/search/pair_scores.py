"""The score of a query and a database row: the definition that every search ends with.

Matrix products round differently on every backend, and even with the place of a row in its block.
Sums in float64 have 29 bits more than the result, so that rounding to float32 hides the order of
summation: equal rows get equal scores wherever they stand, and machines agree. It is slow, and
meant for the few pairs that a filter has left.
"""

import numpy as np

_ROWS_AT_ONCE = 64  # they stay in the cache of a core; more are up to twice as slow
_FEW = 16  # pairs of a query


def pair_scores(
    queries: np.ndarray, rows: np.ndarray, query: np.ndarray, which: np.ndarray | None = None
) -> np.ndarray:
    """Inner products of pairs, summed in float64 and rounded to float32.

    Args:
        queries: [Q, D] float16 or float32.
        rows: [N, D] float16 or float32 database rows.
        query: [n] integers in [0, Q), the query of each pair; quick where equal ones are together.
        which: [n] integers in [0, N), the row of each pair; None if they are 0, 1, ..., n - 1.

    Returns:
        [n] float32; a zero is never negative.
    """
    which = np.arange(len(query)) if which is None else which
    scores = np.empty(len(query), np.float32)
    ends = (np.flatnonzero(np.diff(query, append=-1)) + 1).tolist()
    if len(query) < _FEW * len(ends):
        return _scores_of_few(np.asarray(queries, np.float64), rows, query, which)
    for start, end in zip([0, *ends], ends, strict=False):
        scores[start:end] = scores_of_query(queries[query[start]], rows, which[start:end])
    return scores


def _scores_of_few(
    wide: np.ndarray, rows: np.ndarray, query: np.ndarray, which: np.ndarray
) -> np.ndarray:
    """As `pair_scores`, where a query has so few pairs that a call for each takes longer."""
    scores = np.empty(len(query), np.float32)
    for start in range(0, len(query), _ROWS_AT_ONCE):
        part = slice(start, start + _ROWS_AT_ONCE)
        chosen = rows.take(which[part], axis=0).astype(np.float64)
        scores[part] = np.vecdot(chosen, wide.take(query[part], axis=0))
    return scores + np.float32(0)  # -0 + 0 is 0


def scores_of_query(query: np.ndarray, rows: np.ndarray, which: np.ndarray) -> np.ndarray:
    """As `pair_scores` to the bit, for one query: it stays in cache, so that this is faster.

    Args:
        query: [D] float16 or float32.
        rows: [N, D] float16 or float32 database rows.
        which: [n] integers in [0, N), the row of each pair.

    Returns:
        [n] float32; a zero is never negative.
    """
    scores = np.empty(len(which), np.float32)
    wide = np.asarray(query, np.float64)
    for start in range(0, len(which), _ROWS_AT_ONCE):
        part = slice(start, start + _ROWS_AT_ONCE)
        # Unlike an index in brackets, `take` lets other threads run.
        scores[part] = np.vecdot(rows.take(which[part], axis=0).astype(np.float64), wide)
    return scores + np.float32(0)  # -0 + 0 is 0
