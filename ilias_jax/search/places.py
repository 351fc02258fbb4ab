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

from ilias_jax.search.candidates import Candidates, check_margin
from ilias_jax.search.pair_scores import pair_scores
from ilias_jax.search.window import Window

_CROWD = 8  # one row in so many


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

    def threshold(self) -> np.ndarray:
        """[Q] float32 below which a score matters to no pair; +inf where no pair counts."""
        return np.where(self._counts, self._score, np.float32(np.inf)).min(axis=1)

    def crowded(self, found: Candidates, margin: np.ndarray, num_rows: int) -> np.ndarray:
        """[n] queries that leave many of some rows to score exactly; better scores would help."""
        is_above, is_below = self._compare(found, margin)
        near = (~(is_above | is_below) & self._counts[found.query]).any(axis=1)
        count = np.bincount(found.query[near], minlength=len(self._counts))
        return np.flatnonzero(count > num_rows // _CROWD)

    def tighten(self, queries: np.ndarray, scores: np.ndarray, margin: np.ndarray) -> None:
        """Lets go of pairs that have k higher rows in a block alone, without counting them.

        Args:
            queries: [n] that are concerned.
            scores: [n, R] all their approximate scores of the block.
            margin: [n] of them.
        """
        place = scores.shape[1] - self._k
        if place >= 0:
            reached = np.partition(scores, place, axis=1)[:, place] - margin
            self._counts[queries] &= self._score[queries] >= reached[:, None]

    def add(self, found: Candidates, margin: np.ndarray, window: Window) -> None:
        """Counts rows; see `scan.Sink`."""
        is_above, is_below = self._compare(found, margin)
        self._above += self._sum(is_above, found)
        self._counts &= self._above + self._before < self._k
        is_near = ~(is_above | is_below) & self._counts[found.query]
        near = is_near.any(axis=1)
        self._decide(found.where(near), is_near[near], margin, window)

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

    def _compare(self, found: Candidates, margin: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """[n, M] each: whether a row is surely above a positive of its query, and surely below."""
        upper, lower = self._score + margin[:, None], self._score - margin[:, None]
        score = found.score[:, None]
        return score > upper.take(found.query, axis=0), score < lower.take(found.query, axis=0)

    def _sum(self, matrix: np.ndarray, found: Candidates) -> np.ndarray:
        """[Q, M] number of true values of a [n, M] matrix by query."""
        total = np.zeros(self._counts.shape, np.int64)
        if found.query.size:
            first = np.flatnonzero(np.diff(found.query, prepend=-1))
            total[found.query[first]] = np.add.reduceat(matrix, first, axis=0, dtype=np.int64)
        return total

    def _decide(
        self, found: Candidates, is_near: np.ndarray, margin: np.ndarray, window: Window
    ) -> None:
        """Scores the rows exactly that are too near to a positive to tell."""
        rows = found.row
        exact = pair_scores(self._queries, window.vectors, found.query, rows - window.first_row)
        check_margin(exact, found.score, margin[found.query])
        score, positive = self._score[found.query], self._positive[found.query]
        is_equal = is_near & (exact[:, None] == score)
        self._above += self._sum(is_near & (exact[:, None] > score), found)
        self._equal += self._sum(is_equal, found)
        self._before += self._sum(is_equal & (rows[:, None] < positive), found)
        self._counts &= self._above + self._before < self._k
