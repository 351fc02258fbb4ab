"""Average precision of ranked lists cut at k, with the tie rule of the official evaluator.

The official evaluator takes scikit-learn's `average_precision_score` of the list cut at k and
multiplies it by found / min(k, P). Precision there is taken once for each distinct score, so that
all entries of a tie count as seen when the first of them is. For P positives this equals

    AP = 1 / min(k, P) * sum over found positives of
         (positives found up to the end of its tie) / (rank of the end of its tie).

So the list itself is not needed: the ranks of a query's own positives and of their ties are enough.
They are found on the host, and scored on the device. Positives that are removed from a list, for a
group, shorten a rank by the number of them before it.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ilias_jax.metrics.groups import Labels

NOT_FOUND = np.int32(np.iinfo(np.int32).max)  # beyond every rank
# Rows are filled up to a multiple, so that image and text queries share a compiled program.
_ROWS = 2048


class FoundPositives(NamedTuple):
    """The own positives in each query's list, by rank; filled up to M and to R >= Q rows.

    M is what a row can hold, not what the longest does: a result must not change the program.

    Attributes:
        positive: [R, M] int32 numbers of positives; 0 where filled up.
        rank: [R, M] int32 >= 1, rising; `NOT_FOUND` where filled up.
        tie_start: [R, M] int32, the rank of the first entry with the same score in the list.
        tie_end: [R, M] int32, the rank of the last one.
        first_of_tie: [R, M] int32 in [0, M), the column of the first positive of the tie.
        last_of_tie: [R, M] int32, the column of the last one.
    """

    positive: np.ndarray | jax.Array
    rank: np.ndarray | jax.Array
    tie_start: np.ndarray | jax.Array
    tie_end: np.ndarray | jax.Array
    first_of_tie: np.ndarray | jax.Array
    last_of_tie: np.ndarray | jax.Array


def find_positives(
    entries: np.ndarray, scores: np.ndarray, offsets: np.ndarray, labels: Labels
) -> FoundPositives:
    """Finds the own positives in lists.

    Args:
        entries: [E] int32 numbers of positives; other images have numbers from P on.
        scores: [E] float32 or float64, not rising within a list.
        offsets: [Q + 1] where each list begins, and the end of the last one.
        labels: of the Q queries.
    """
    place = np.flatnonzero(entries < len(labels.positive_object))
    row = np.searchsorted(offsets, place, side="right") - 1
    own = labels.positive_object[entries[place]] == labels.query_object[row]
    place, row = place[own], row[own]
    ties = _tie_starts(scores, offsets)
    tie = np.searchsorted(ties, place, side="right")
    start, behind = ties[tie - 1], ties[tie]
    first = np.searchsorted(row, row)  # the first found positive of the same list
    num_queries = len(labels.query_object)
    longest = np.bincount(labels.positive_object)[labels.query_object].max()
    shape = (-(-num_queries // _ROWS) * _ROWS, int(longest))

    def rows(values: np.ndarray, filling: int | np.int32) -> np.ndarray:
        array = np.full(shape, filling, np.int32)
        array[row, np.arange(len(row)) - first] = values
        return array

    return FoundPositives(
        positive=rows(entries[place], 0),
        rank=rows(place - offsets[row] + 1, NOT_FOUND),
        tie_start=rows(start - offsets[row] + 1, NOT_FOUND),
        tie_end=rows(behind - offsets[row], NOT_FOUND),
        first_of_tie=rows(np.searchsorted(place, start) - first, 0),
        last_of_tie=rows(np.searchsorted(place, behind) - 1 - first, 0),
    )


def _tie_starts(scores: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Where runs of equal scores within a list begin, and E at the end."""
    # Bits, as a library may have told the processor to take subnormal numbers for zero.
    bits = scores.view(f"i{scores.itemsize}")
    bits = np.where(bits == np.iinfo(bits.dtype).min, 0, bits)  # -0.0 equals 0.0
    starts = np.ones(len(scores) + 1, bool)
    starts[1:-1] = bits[1:] != bits[:-1]
    starts[offsets] = True
    return np.flatnonzero(starts)


def average_precision(
    found: FoundPositives, kept: jax.Array, num_positives: jax.Array, k: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """AP@k and retrieval recall@k of each list after positives were removed from it.

    Args:
        found: the positives in the whole list.
        kept: [R, M] bool, false for positives that are removed before the cut.
        num_positives: [R] int32, positives of the query in the database (without removed ones).
        k: int32 scalar >= 1, the cut.

    Returns:
        ap, recall: [R] float64 fractions in [0, 1]; 0 where nothing is found, so also where a query
            has no positive left. Recall@k is found / P.
        ambiguous: [R] bool, a kept positive and something else tie on both sides of rank k.
    """
    removed = jnp.cumsum(~kept, axis=1, dtype=jnp.int32)
    hit = kept & (found.rank - removed <= k)
    hits = jnp.cumsum(hit, axis=1, dtype=jnp.int32)
    take = functools.partial(jnp.take_along_axis, axis=1)
    hits_at_end, removed_at_end = (take(counts, found.last_of_tie) for counts in (hits, removed))
    end = found.tie_end - removed_at_end
    # A removed positive may end at rank 0; it adds nothing, but must not divide by it.
    precision = hits_at_end / jnp.clip(end, 1, k).astype(jnp.float64)
    total = jnp.sum(jnp.where(hit, precision, 0.0), axis=1, dtype=jnp.float64)
    ap = total / jnp.maximum(jnp.minimum(num_positives, k), 1)
    recall = hits[:, -1] / jnp.maximum(num_positives, 1).astype(jnp.float64)
    removed_before = take(removed - ~kept, found.first_of_tie)
    start = found.tie_start - removed_before
    own = found.last_of_tie - found.first_of_tie + 1 - (removed_at_end - removed_before)
    ambiguous = kept & (end - start + 1 > own) & (start <= k) & (k < end)
    return ap, recall, ambiguous.any(axis=1)
