"""Counts the database rows that stand above positives while blocks pass by; no list is kept.

**What follows from counts.** The rank of a positive in the stable order is 1 + the rows with a
higher score + the rows with an equal one and a lower database index; the end of its tie is the
number of rows at or above it. AP@k, groups and ties need no more (`PositiveCounts`).

**Why nothing is lost.** With m the margin of a query (`product`), a row whose approximate score is
more than m above the positive's exact score has a higher exact score, and one more than m below has
a lower one. Only the rows between are scored exactly. Rows below the lowest positive that still
counts are passed over by the same groups as in `best_rows`.

**When a positive no longer counts.** Once k rows stand before it, its rank is beyond k for good,
and so is the end of its tie. So every query looks at no more than about k rows in the end, however
low its last positive is.
"""

import numpy as np

from ilias_jax.search.candidates import Approximate, Candidates, check_margin, find_candidates
from ilias_jax.search.pair_scores import pair_scores
from ilias_jax.search.window import Window


class Places:
    """The state of some queries; those of different queries never touch each other.

    Args:
        queries: [Q, D] float16 or float32.
        query: [n] integers in [0, Q), not falling: the query of each pair.
        positive: [n] integers, the database index of each pair's positive.
        score: [n] float32, the exact score of each pair.
        k: ranks beyond it need not be known, at least 1.
    """

    def __init__(
        self,
        queries: np.ndarray,
        query: np.ndarray,
        positive: np.ndarray,
        score: np.ndarray,
        k: int,
    ) -> None:
        self._queries, self._k = queries, k
        count = np.bincount(query, minlength=len(queries))
        place = np.arange(len(query)) - (np.cumsum(count) - count)[query]
        self._pairs = (query, place)
        shape = (len(queries), max(1, count.max(initial=0)))
        self._counts = np.zeros(shape, bool)  # the pair exists and may still be among the k best
        self._counts[self._pairs] = True
        self._score = np.zeros(shape, np.float32)
        self._score[self._pairs] = score
        self._positive = np.zeros(shape, np.int64)
        self._positive[self._pairs] = positive
        self._above, self._equal, self._before = np.zeros((3, *shape), np.int64)

    def start(self, bound: np.ndarray) -> None:
        """Takes scores [Q] float32 that k rows of the database are known to reach."""
        self._counts &= self._score >= bound[:, None]

    def add(
        self, block: Approximate, window: Window, again: np.ndarray | None = None
    ) -> np.ndarray:
        """Counts the rows of a block.

        Args:
            block: approximate scores of these queries.
            window: has the rows of the block.
            again: [n] the queries to serve, which were handed back before; they are served whatever
                it takes. None to serve all that leave few rows to score exactly.

        Returns:
            [n] queries that were not served.
        """
        threshold = self._threshold(block, again)
        if np.count_nonzero(block.maxima >= threshold[:, None]) > block.maxima.size // 4:
            self._pass_by(block)
            threshold = self._threshold(block, again)
        found = find_candidates(block, threshold)
        score, margin = self._score[found.query], block.margin[found.query, None]
        is_above = found.score[:, None] > score + margin
        above = self._above + self._sum(is_above, found)
        counts = self._counts & (above + self._before < self._k)
        is_near = ~is_above & (found.score[:, None] >= score - margin) & counts[found.query]
        near = is_near.any(axis=1)
        full = np.flatnonzero(self._num_near(found, near) > block.scores.shape[1] // 8)
        if again is not None or not full.size:
            full = full[:0]
        served = np.isin(np.arange(len(counts)), full, invert=True)
        self._above[served], self._counts[served] = above[served], counts[served]
        near &= served[found.query]
        self._decide(found.where(near), is_near[near], block, window)
        return full

    def settle(self, window: Window) -> None:
        """Nothing is left open at the end of a window."""

    def result(self) -> tuple[np.ndarray, np.ndarray]:
        """At-or-above and rank, [n] int32 each, as in `PositiveCounts`."""
        most = self._k + 1
        rank = np.minimum(self._above + self._before + 1, most)
        at_or_above = np.minimum(self._above + self._equal, most)
        at_or_above = np.where(self._counts, at_or_above, most)
        rank = np.where(self._counts, rank, most)
        return at_or_above[self._pairs].astype(np.int32), rank[self._pairs].astype(np.int32)

    def _pass_by(self, block: Approximate) -> None:
        """Lets go of pairs that have k higher rows in this block alone, without counting them."""
        place = block.scores.shape[1] - self._k
        if place >= 0:
            reached = np.partition(block.scores, place, axis=1)[:, place]
            self._counts &= reached[:, None] <= self._score + block.margin[:, None]

    def _threshold(self, block: Approximate, again: np.ndarray | None) -> np.ndarray:
        """[Q] float32 below which a score matters to no pair; +inf where no pair counts."""
        counts = self._counts
        if again is not None:
            counts = counts & np.isin(np.arange(len(counts)), again)[:, None]
        lowest = np.where(counts, self._score, np.float32(np.inf)).min(axis=1)
        return lowest - block.margin

    def _sum(self, matrix: np.ndarray, found: Candidates) -> np.ndarray:
        """[Q, M] number of true values of a [n, M] matrix by query."""
        total = np.zeros(self._counts.shape, np.int64)
        first = np.flatnonzero(np.diff(found.query, prepend=-1))
        if first.size:
            total[found.query[first]] = np.add.reduceat(matrix, first, axis=0, dtype=np.int64)
        return total

    def _num_near(self, found: Candidates, near: np.ndarray) -> np.ndarray:
        return np.bincount(found.query[near], minlength=len(self._counts))

    def _decide(
        self, found: Candidates, is_near: np.ndarray, block: Approximate, window: Window
    ) -> None:
        """Scores the rows exactly that are too near to a positive to tell."""
        rows = found.row + block.first_row
        exact = pair_scores(self._queries, window.vectors, found.query, rows - window.first_row)
        check_margin(exact, found.score, block.margin[found.query])
        score, positive = self._score[found.query], self._positive[found.query]
        is_equal = is_near & (exact[:, None] == score)
        self._above += self._sum(is_near & (exact[:, None] > score), found)
        self._equal += self._sum(is_equal, found)
        self._before += self._sum(is_equal & (rows[:, None] < positive), found)
        self._counts &= self._above + self._before < self._k
