"""The score of a query and a database row, and the k best rows of every query, exact to the bit.

The score is the inner product summed in float64 and rounded to float32. Matrix products round
differently on every backend, and even with the row's position in its block; a sum in float64 has 29
bits more than the result, so that rounding hides the order of summation: equal rows get equal
scores wherever they stand, and machines agree. It is slow, and meant for the few pairs that a
filter has left. In a ranking higher scores come first, lower rows first among equal scores.

While blocks pass by, `BestRows` keeps for every query a list of at most k exact pairs (score, row);
candidates of the present window with approximate scores; and a bound that the k-th best exact score
of the whole database is known to reach.

**Why nothing is lost.** Let m be the margin of a query: approximate scores are at most m away from
the exact ones (`filter`). The exact score of a listed row, and the approximate one minus m of a
candidate, are lower bounds of the exact scores of different rows. If k of them are at least b, then
so is the k-th best score of the rows seen so far, and later rows can only raise it. A row that is
passed over has an approximate score below b - m, hence an exact one below b: k rows are strictly
better, and it is in no top k, whatever its rank among equal scores. A row whose score *equals* the
k-th best is never passed over; the exact order, score then row, decides about it when its window is
settled.

**When there are too many candidates.** With many scores within m of the k-th best, raising the
bound may not free enough room. Such a query says that it is crowded, and gets scores that are
better approximated. If those do not separate it either, its candidates get exact scores at once and
make room, as often as needed: slow, but every step is exact.
"""

import concurrent.futures
import dataclasses
import functools
import os
from collections.abc import Iterator

import numpy as np

from ilias_jax.embeddings.sources import VectorSource
from ilias_jax.search.filter import Candidates, check_margin

LAST = np.uint64(0xFFFFFFFFFFFFFFFF)  # a key that stands after every pair, for no pair
_SIGN = np.uint32(0x80000000)
_LOWEST = np.finfo(np.float32).min
_ROWS_AT_ONCE = 64  # they stay in the cache of a core; more are up to twice as slow
_FEW = 16  # pairs of a query
_WINDOW_BYTES = 2**25  # of fetched rows in memory together; larger ones take longer to allocate
_QUERIES_AT_ONCE = 16  # a thread takes
_MAX_THREADS = 16  # more would wait for memory


def pack(scores: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Pairs of a score and a row as uint64 keys whose order is the order of a ranking.

    The score, float32 without NaN and -0, is in the high half, turned so that higher scores make
    smaller keys; the row, in [0, 2**31), is in the low half.
    """
    bits = np.ascontiguousarray(scores, np.float32).view(np.uint32)
    # Bits of floats rise with positive values and fall with negative ones.
    falling = np.where(bits & _SIGN, bits, ~bits & ~_SIGN)
    return falling.astype(np.uint64) << np.uint64(32) | rows.astype(np.uint64)


def scores_of(keys: np.ndarray) -> np.ndarray:
    """The float32 scores of keys; -inf for `LAST`."""
    falling = (keys >> np.uint64(32)).astype(np.uint32)
    bits = np.where(falling & _SIGN, falling, ~falling & ~_SIGN)
    return np.where(keys == LAST, np.float32(-np.inf), bits.view(np.float32))


def rows_of(keys: np.ndarray) -> np.ndarray:
    """The int64 rows of keys; 2**32 - 1 for `LAST`."""
    return (keys & np.uint64(0xFFFFFFFF)).astype(np.int64)


def pair_scores(
    queries: np.ndarray, rows: np.ndarray, query: np.ndarray, which: np.ndarray
) -> np.ndarray:
    """Scores [n] float32 of pairs: inner products summed in float64; a zero is never negative.

    Args:
        queries: [Q, D] float16 or float32.
        rows: [N, D] likewise, of the database.
        query: [n] integers in [0, Q), the query of each pair; quick where equal ones are together.
        which: [n] integers in [0, N), the row of each pair.
    """
    scores = np.empty(len(query), np.float32)
    ends = (np.flatnonzero(np.diff(query, append=-1)) + 1).tolist()
    if len(query) < _FEW * len(ends):
        # A query has so few pairs that a call for each would take longer.
        wide = np.asarray(queries, np.float64)
        for part in _cut(0, len(query)):
            chosen = rows.take(which[part], axis=0).astype(np.float64)
            scores[part] = np.vecdot(chosen, wide.take(query[part], axis=0))
        return scores + np.float32(0)  # -0 + 0 is 0
    for start, end in zip([0, *ends], ends, strict=False):
        alone = np.asarray(queries[query[start]], np.float64)  # stays in cache: faster
        for part in _cut(start, end):
            # Unlike an index in brackets, `take` lets other threads run.
            scores[part] = np.vecdot(rows.take(which[part], axis=0).astype(np.float64), alone)
    return scores + np.float32(0)


def _cut(start: int, end: int) -> Iterator[slice]:
    return (slice(at, min(at + _ROWS_AT_ONCE, end)) for at in range(start, end, _ROWS_AT_ONCE))


@dataclasses.dataclass(frozen=True, eq=False)
class Window:
    """Neighbouring rows [n, D] of a database that are in the host's memory together."""

    first_row: int
    vectors: np.ndarray


class BestRows:
    """The state of some queries; those of different queries never touch each other.

    Args:
        queries: [Q, D] float16 or float32.
        k: length of the lists, at least 1.
        num_pending: candidates of a query that are kept before they are thinned out; at least 1.
    """

    def __init__(self, queries: np.ndarray, k: int, num_pending: int) -> None:
        count = len(queries)
        self._queries, self._k = queries, k
        self._best = np.full((count, k), LAST)  # the k-th is the last of each row
        self._pending = np.full((count, num_pending), LAST)
        self._num_pending = np.zeros(count, np.int64)
        self._margin = np.zeros(count, np.float32)  # of the pending candidates
        self._bound = np.full(count, _LOWEST)
        self._is_listed = False  # whether any pair is

    def start(self, bound: np.ndarray) -> None:
        """Takes scores [Q] float32 that k rows of the database are known to reach."""
        self._bound = np.maximum(self._bound, bound)

    def threshold(self) -> np.ndarray:
        """[Q] float32: rows whose exact score is below are in no list and need not be shown."""
        return self._bound

    def crowded(self, found: Candidates) -> np.ndarray:
        """[n] queries that have no room for all of their candidates."""
        coming = np.bincount(found.query, minlength=len(self._queries))
        return np.flatnonzero(self._num_pending + coming > self._pending.shape[1])

    def tighten(self, queries: np.ndarray, scores: np.ndarray, margin: np.ndarray) -> None:
        """Raises bounds of queries [n] with all their scores [n, R] of a block, margin [n]."""
        self._thin(queries, scores - margin[:, None])

    def add(self, found: Candidates, margin: np.ndarray, window: Window) -> None:
        """Takes candidates of a window, whatever they cost; margin is [Q] and of their scores."""
        full = self.crowded(found)
        if full.size:
            self._thin(full)
            found = self._still_above(found, margin)
            full = self.crowded(found)
        self._insert(found.without(full), margin)
        for query in full[:, None]:
            self._squeeze_in(found.only(query), margin, window)

    def settle(self, window: Window, queries: np.ndarray | None = None) -> None:
        """Lists the candidates of some or all queries by exact score, before their window goes."""
        queries = np.arange(len(self._queries)) if queries is None else queries
        self._thin(queries)
        # The best k first: their exact scores raise the bound, and spare many of the others.
        self._merge(queries, slice(self._k), window)
        self._thin(queries)
        self._merge(queries, slice(None), window)
        self._num_pending[queries] = 0
        self._margin[queries] = 0

    def _merge(self, queries: np.ndarray, columns: slice, window: Window) -> None:
        """Gives the candidates in some columns of their sorted rows exact scores and lists them."""
        width = self._num_pending[queries].max(initial=0)
        pending = self._pending[queries, :width][:, columns]
        owner, column = np.nonzero(pending != LAST)
        which, key = queries[owner], pending[owner, column]
        rows = rows_of(key)
        exact = pair_scores(self._queries, window.vectors, which, rows - window.first_row)
        check_margin(exact, scores_of(key), self._margin[which])
        pending[owner, column] = pack(exact, rows)
        best = np.concatenate([self._best[queries], pending], axis=1)
        best = np.partition(best, self._k - 1, axis=1)[:, : self._k]
        self._best[queries] = best
        self._is_listed = True
        self._pending[queries[:, None], np.arange(width)[columns]] = LAST
        reached = scores_of(best[:, -1])
        self._bound[queries] = np.maximum(self._bound[queries], reached)

    def result(self) -> tuple[np.ndarray, np.ndarray]:
        """Scores [Q, k] float32, falling, and rows [Q, k] int32."""
        best = np.sort(self._best, axis=1)
        return scores_of(best), rows_of(best).astype(np.int32)

    def _thin(self, queries: np.ndarray, more: np.ndarray | None = None) -> None:
        """Raises bounds to the k-th of all lower bounds known, and drops what they have passed.

        It sorts the candidates; `more` [n, R] are lower bounds of other rows of the queries [n].
        """
        pending = np.sort(self._pending[queries], axis=1)
        lower = scores_of(pending[:, : self._k]) - self._margin[queries, None]
        others = [] if more is None else [more]
        if self._is_listed:
            others.append(scores_of(self._best[queries]))
        if others:
            known = np.concatenate([lower, *others], axis=1)
            column = known.shape[1] - self._k
            reached = np.partition(known, column, axis=1)[:, column]
        elif lower.shape[1] == self._k:
            reached = lower[:, -1]
        else:
            reached = np.full(len(queries), _LOWEST)
        self._bound[queries] = np.maximum(self._bound[queries], reached)
        threshold = self._bound[queries] - self._margin[queries] + np.float32(0)
        last = pack(threshold, np.full(len(queries), 0xFFFFFFFF))
        pending[pending > last[:, None]] = LAST
        self._pending[queries] = pending
        self._num_pending[queries] = np.count_nonzero(pending != LAST, axis=1)

    def _still_above(self, found: Candidates, margin: np.ndarray) -> Candidates:
        return found.where(found.score >= (self._bound - margin)[found.query])

    def _insert(self, found: Candidates, margin: np.ndarray) -> None:
        coming = np.bincount(found.query, minlength=len(self._queries))
        first = np.cumsum(coming) - coming
        column = np.arange(len(found.query)) - (first - self._num_pending)[found.query]
        self._pending[found.query, column] = pack(found.score + np.float32(0), found.row)
        self._num_pending += coming
        touched = coming > 0
        self._margin[touched] = np.maximum(self._margin, margin)[touched]

    def _squeeze_in(self, found: Candidates, margin: np.ndarray, window: Window) -> None:
        """Takes candidates of one query that do not fit, a piece at a time."""
        while found.query.size:
            self.settle(window, found.query[:1])
            found = self._still_above(found, margin)
            room = self._pending.shape[1]
            self._insert(found.where(slice(room)), margin)
            found = found.where(slice(room, None))


def best_of_lists(
    queries: np.ndarray, rows: np.ndarray, database: VectorSource, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """The k best of every query's candidates, which an approximate search has found.

    The host's threads do it, for the rows are there. Rows are fetched in rising order, each once
    however many lists hold it.

    Args:
        queries: [Q, D] float16 or float32.
        rows: [Q, n] database indices, n >= k, none twice in a list; -1 where a list is shorter.
        database: that they index.
        k: length of the lists to return.

    Returns:
        Scores [Q, k] float32, falling, and database indices [Q, k] int32, lower ones first among
        equal scores; -inf and -1 where a list is shorter.
    """
    rows = np.sort(rows, axis=1)
    keys = np.full(rows.shape, LAST)
    starts = range(0, len(rows), _QUERIES_AT_ONCE)
    batches = [slice(start, start + _QUERIES_AT_ONCE) for start in starts]

    def score(indices: np.ndarray, vectors: np.ndarray, batch: slice) -> None:
        wanted = rows[batch]
        here = (wanted >= indices[0]) & (wanted <= indices[-1])
        which = np.searchsorted(indices, wanted[here])
        exact = pair_scores(queries[batch], vectors, np.nonzero(here)[0], which)
        keys[batch][here] = pack(exact, wanted[here])

    with concurrent.futures.ThreadPoolExecutor(min(os.cpu_count() or 1, _MAX_THREADS)) as pool:
        for indices, vectors in _fetch(rows, database):
            list(pool.map(functools.partial(score, indices, vectors), batches))
        list(pool.map(lambda batch: keys[batch].sort(axis=1), batches))
    best = keys[:, :k]
    return scores_of(best), np.where(best == LAST, -1, rows_of(best)).astype(np.int32)


def _fetch(rows: np.ndarray, database: VectorSource) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """All rows that any list holds: rising indices [n] and vectors [n, D], some at a time."""
    wanted = np.sort(rows, axis=None)  # several times faster than `np.unique`
    wanted = wanted[np.diff(wanted, prepend=-1) > 0]
    if not len(wanted):
        return
    step = max(1, _WINDOW_BYTES // database.rows(wanted[:1]).nbytes)
    for start in range(0, len(wanted), step):
        part = wanted[start : start + step]
        yield part, database.rows(part)
