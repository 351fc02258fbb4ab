"""The k best rows of every query while blocks pass by, exact whatever the filter rounds.

**What is kept.** For every query a list of at most k exact pairs (score, row) of the windows that
are done; candidates of the present window with approximate scores; and a bound that the k-th best
exact score of the whole database is known to reach.

**Why nothing is lost.** Let m be the margin of a query: approximate scores are at most m away from
the exact ones (`product`). The exact score of a listed row, and the approximate one minus m of a
candidate, are lower bounds of the exact scores of different rows. If k of them are at least b, then
so is the k-th best score of the rows seen so far, and later rows can only raise it. A row that is
passed over has an approximate score below b - m, hence an exact one below b: k rows are strictly
better, and it is in no top k, whatever its place among equal scores. A row whose score *equals* the
k-th best is never passed over; the exact order, score then row, decides about it when its window is
settled.

**When there are too many candidates.** With many scores within m of the k-th best, raising the
bound may not free enough places. Such a query says that it is crowded, and gets scores that are
better approximated. If those do not separate it either, its candidates get exact scores at once and
make room, as often as needed: slow, but every step is exact.
"""

import numpy as np

from ilias_jax.search import keys
from ilias_jax.search.candidates import Candidates, check_margin
from ilias_jax.search.pair_scores import pair_scores
from ilias_jax.search.window import Window

_LOWEST = np.finfo(np.float32).min


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
        self._best = np.full((count, k), keys.LAST)  # the k-th is the last of each row
        self._pending = np.full((count, num_pending), keys.LAST)
        self._num_pending = np.zeros(count, np.int64)
        self._margin = np.zeros(count, np.float32)  # of the pending candidates
        self._bound = np.full(count, _LOWEST)
        self._is_listed = False  # whether any pair is

    def start(self, bound: np.ndarray) -> None:
        """Takes scores [Q] float32 that k rows of the database are known to reach."""
        self._bound = np.maximum(self._bound, bound)

    def threshold(self) -> np.ndarray:
        """[Q] float32 below which a score is in no list."""
        return self._bound

    def crowded(self, found: Candidates, margin: np.ndarray, num_rows: int) -> np.ndarray:
        """[n] queries that have no place for all of their candidates."""
        coming = np.bincount(found.query, minlength=len(self._queries))
        return np.flatnonzero(self._num_pending + coming > self._pending.shape[1])

    def tighten(self, queries: np.ndarray, scores: np.ndarray, margin: np.ndarray) -> None:
        """Raises bounds with the help of a block, of which nothing is taken yet.

        Args:
            queries: [n] that are concerned.
            scores: [n, R] all their approximate scores of the block.
            margin: [n] of them.
        """
        self._thin(queries, scores - margin[:, None])

    def add(self, found: Candidates, margin: np.ndarray, window: Window) -> None:
        """Takes candidates; see `scan.Sink`."""
        full = self.crowded(found, margin, 0)
        if full.size:
            self._thin(full)
            found = self._still_above(found, margin)
            full = self.crowded(found, margin, 0)
        self._insert(found.without(full), margin)
        for query in full[:, None]:
            self._squeeze_in(found.only(query), margin, window)

    def settle(self, window: Window, queries: np.ndarray | None = None) -> None:
        """Gives candidates exact scores and merges them; called before their window goes.

        Args:
            window: has their rows.
            queries: whose; None for all.
        """
        queries = np.arange(len(self._queries)) if queries is None else queries
        self._thin(queries)
        # The best k first: their exact scores raise the bound, and spare many of the others.
        self._merge(queries, slice(self._k), window)
        self._thin(queries)
        self._merge(queries, slice(None), window)
        self._num_pending[queries] = 0
        self._margin[queries] = 0

    def _merge(self, queries: np.ndarray, places: slice, window: Window) -> None:
        """Gives the candidates in some places of their sorted rows exact scores and lists them."""
        width = self._num_pending[queries].max(initial=0)
        pending = self._pending[queries, :width][:, places]
        owner, place = np.nonzero(pending != keys.LAST)
        which, key = queries[owner], pending[owner, place]
        rows = keys.rows_of(key)
        exact = pair_scores(self._queries, window.vectors, which, rows - window.first_row)
        check_margin(exact, keys.scores_of(key), self._margin[which])
        pending[owner, place] = keys.pack(exact, rows)
        best = np.concatenate([self._best[queries], pending], axis=1)
        best = np.partition(best, self._k - 1, axis=1)[:, : self._k]
        self._best[queries] = best
        self._is_listed = True
        self._pending[queries[:, None], np.arange(width)[places]] = keys.LAST
        reached = keys.scores_of(best[:, -1])
        self._bound[queries] = np.maximum(self._bound[queries], reached)

    def result(self) -> tuple[np.ndarray, np.ndarray]:
        """Scores [Q, k] float32, falling, and rows [Q, k] int32."""
        best = np.sort(self._best, axis=1)
        return keys.scores_of(best), keys.rows_of(best).astype(np.int32)

    def _thin(self, queries: np.ndarray, more: np.ndarray | None = None) -> None:
        """Raises bounds to the k-th of all lower bounds known, and drops what they have passed.

        Args:
            queries: [n] whose; their candidates are sorted.
            more: [n, R] lower bounds of rows that are not among the candidates.
        """
        pending = np.sort(self._pending[queries], axis=1)
        lower = keys.scores_of(pending[:, : self._k]) - self._margin[queries, None]
        others = [] if more is None else [more]
        if self._is_listed:
            others.append(keys.scores_of(self._best[queries]))
        if others:
            known = np.concatenate([lower, *others], axis=1)
            place = known.shape[1] - self._k
            reached = np.partition(known, place, axis=1)[:, place]
        elif lower.shape[1] == self._k:
            reached = lower[:, -1]
        else:
            reached = np.full(len(queries), _LOWEST)
        self._bound[queries] = np.maximum(self._bound[queries], reached)
        threshold = self._bound[queries] - self._margin[queries] + np.float32(0)
        last = keys.pack(threshold, np.full(len(queries), 0xFFFFFFFF))
        pending[pending > last[:, None]] = keys.LAST
        self._pending[queries] = pending
        self._num_pending[queries] = np.count_nonzero(pending != keys.LAST, axis=1)

    def _still_above(self, found: Candidates, margin: np.ndarray) -> Candidates:
        return found.where(found.score >= (self._bound - margin)[found.query])

    def _insert(self, found: Candidates, margin: np.ndarray) -> None:
        coming = np.bincount(found.query, minlength=len(self._queries))
        first = np.cumsum(coming) - coming
        place = np.arange(len(found.query)) - (first - self._num_pending)[found.query]
        self._pending[found.query, place] = keys.pack(found.score + np.float32(0), found.row)
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
