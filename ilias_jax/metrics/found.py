"""Where a query's own positives stand in its list: all that scores need to know of a search.

A ranking and the counts of a search without lists are brought into this one form, on the host: of
the millions of entries of a ranking a few thousand are left, and both give the same numbers.
"""

from typing import NamedTuple

import jax
import numpy as np

from ilias_jax.metrics.groups import Labels
from ilias_jax.positive_counts import PositiveCounts
from ilias_jax.ranking import Ranking

NOT_FOUND = np.int32(np.iinfo(np.int32).max)  # beyond every rank
# Rows are filled up to a multiple, so that image and text queries share a compiled program.
_ROWS = 2048


class Found(NamedTuple):
    """The own positives in each query's list, by rank; filled up to M and to R >= Q rows.

    Attributes:
        positive: [R, M] int32 database indices; 0 where filled up.
        rank: [R, M] int32 >= 1, rising; `NOT_FOUND` where filled up.
        tie_end: [R, M] int32, the rank of the last entry with the same score in the list.
        last_of_tie: [R, M] int32 in [0, M), the place in the row of the last positive whose rank
            is at most `tie_end`.
    """

    positive: np.ndarray | jax.Array
    rank: np.ndarray | jax.Array
    tie_end: np.ndarray | jax.Array
    last_of_tie: np.ndarray | jax.Array


def found_in_ranking(ranking: Ranking, labels: Labels) -> Found:
    """Finds the positives in lists, whole ones."""
    length = ranking.indices.shape[1]
    entry = np.flatnonzero(ranking.indices < len(labels.positive_object))
    query, positive = entry // length, ranking.indices.ravel()[entry]
    own = labels.positive_object[positive] == labels.query_object[query]
    entry, query, positive = entry[own], query[own], positive[own]
    ends = np.flatnonzero(_tie_ends(ranking.scores))
    tie_end = ends[np.searchsorted(ends, entry)] % length + 1
    return _filled_up(query, positive, entry % length + 1, tie_end, labels)


def found_in_counts(counts: PositiveCounts, labels: Labels) -> Found:
    """The same for the lists of the first `counts.k` entries, which were never made.

    Only one tie can go on behind such a list, so that scores need not be compared: positives are
    in the same tie if and only if it ends at the same rank.
    """
    pairs = np.flatnonzero(counts.rank <= counts.k)
    pairs = pairs[np.lexsort((counts.rank[pairs], counts.query[pairs]))]
    tie_end = np.minimum(counts.at_or_above[pairs], counts.k)
    return _filled_up(
        counts.query[pairs], counts.positive[pairs], counts.rank[pairs], tie_end, labels
    )


def _tie_ends(scores: np.ndarray) -> np.ndarray:
    """[Q, K] bool: the entry is the last of its run of equal scores, float32 that do not rise."""
    # Bits, as a library may have told the processor to take subnormal numbers for zero.
    bits = scores.view(np.int32)
    bits = np.where(bits == np.iinfo(np.int32).min, np.int32(0), bits)  # -0.0 equals 0.0
    ends = np.ones(scores.shape, bool)
    np.not_equal(bits[:, 1:], bits[:, :-1], out=ends[:, :-1])
    return ends


def _filled_up(
    query: np.ndarray, positive: np.ndarray, rank: np.ndarray, tie_end: np.ndarray, labels: Labels
) -> Found:
    """Puts found positives, [H] each and ordered by query and rank, into rows."""
    num_queries = len(labels.query_object)
    own = np.bincount(labels.positive_object)[labels.query_object]
    # As long as a row can be, not as the longest is: what was found must not change the program.
    shape = (-(-num_queries // _ROWS) * _ROWS, int(own.max()))
    first = np.searchsorted(query, np.arange(num_queries))[query]
    column = np.arange(len(query)) - first
    order = query.astype(np.int64) << 32
    last = np.searchsorted(order + rank, order + tie_end, side="right") - 1 - first

    def rows(values: np.ndarray, filling: int | np.int32) -> np.ndarray:
        array = np.full(shape, filling, np.int32)
        array[query, column] = values
        return array

    return Found(rows(positive, 0), rows(rank, NOT_FOUND), rows(tie_end, NOT_FOUND), rows(last, 0))
