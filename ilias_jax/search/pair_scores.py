"""The score of a query and a database row: the definition that every search ends with.

Matrix products round differently on every backend, and even with the place of a row in its block.
Sums in float64 have 29 bits more than the result, so that rounding to float32 hides the order of
summation: equal rows get equal scores wherever they stand, and machines agree. It is slow, and
meant for the few pairs that a filter has left.
"""

import numpy as np

_ROWS_AT_ONCE = 256  # of one query: they stay in cache


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
    scores = np.empty(len(query), np.float32)
    wide = np.asarray(queries, np.float64)
    ends = np.flatnonzero(np.diff(query, append=-1)) + 1
    start = 0
    for end in ends:
        vector = wide[query[start]]
        for first in range(start, end, _ROWS_AT_ONCE):
            part = slice(first, min(first + _ROWS_AT_ONCE, end))
            chosen = rows[part] if which is None else rows[which[part]]
            scores[part] = np.vecdot(chosen.astype(np.float64), vector)
        start = end
    return scores + np.float32(0)  # -0 + 0 is 0
