"""Average precision of ranked lists cut at k, with the tie rule of the official evaluator.

The official evaluator takes scikit-learn's `average_precision_score` of the cut list and multiplies
it by found / min(k, P). Precision there is taken once for each distinct score, so that all entries
of a tie count as seen when the first of them is. For P positives this equals

    AP = 1 / min(k, P) * sum over found positives of
         (positives found up to the end of its tie) / (rank of the end of its tie).

So the list itself is not needed: the ranks of a query's own positives and of the ends of their ties
are enough. Taking positives out of the list shortens a rank by the number of them up to there.
"""

import jax
import jax.numpy as jnp

from ilias_jax.metrics.found import Found


def average_precision(
    found: Found, kept: jax.Array, num_positives: jax.Array, k: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """AP@k and retrieval recall@k of each list after positives were removed from it.

    Removed entries shorten the list; it is cut at k afterwards and not filled up again.

    Args:
        found: the positives in the whole list.
        kept: [R, M] bool, false for positives that are removed before the cut.
        num_positives: [R] int32, positives of the query in the database (without removed ones).
        k: int32 scalar >= 1, the cut.

    Returns:
        (ap, recall), both [R] float64 fractions in [0, 1]; 0 where nothing is found, so also where
        a query has no positive left. Recall@k is found / P; the official "oracle", mean(found) * k
        / P over the list, is the same for a list of k entries, but too high by k / length for a
        shorter one.
    """
    removed = jnp.cumsum(~kept, axis=1, dtype=jnp.int32)
    hit = kept & (found.rank - removed <= k)
    hits = jnp.cumsum(hit, axis=1, dtype=jnp.int32)
    hits_at_end, removed_at_end = (
        jnp.take_along_axis(counts, found.last_of_tie, axis=1) for counts in (hits, removed)
    )
    # A removed positive may end at rank 0; it adds nothing, but must not divide by it.
    end = jnp.clip(found.tie_end - removed_at_end, 1, k)
    precision = hits_at_end / end.astype(jnp.float64)
    total = jnp.sum(jnp.where(hit, precision, 0.0), axis=1, dtype=jnp.float64)
    ap = total / jnp.maximum(jnp.minimum(num_positives, k), 1)
    recall = hits[:, -1] / jnp.maximum(num_positives, 1).astype(jnp.float64)
    return ap, recall
