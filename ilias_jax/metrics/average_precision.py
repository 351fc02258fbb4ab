"""Average precision of ranked lists cut at k, with the tie rule of the official evaluator.

The official evaluator takes scikit-learn's `average_precision_score` of the cut list and multiplies
it by found / min(k, P). Precision there is taken once for each distinct score, so that all entries
of a tie count as seen when the first of them is. For P positives this equals

    AP = 1 / min(k, P) * sum over found positives of
         (positives found up to the end of its tie) / (rank of the end of its tie).
"""

import jax
import jax.numpy as jnp
import numpy as np


def tie_ends(scores: jax.Array) -> jax.Array:
    """Marks the last entry of each run of equal scores.

    Args:
        scores: [Q, K] float32, non-increasing along K.

    Returns:
        [Q, K] bool.
    """
    # XLA on a CPU takes every subnormal number for zero when it compares floats; bits do not lie.
    bits = jax.lax.bitcast_convert_type(scores, jnp.int32)
    bits = jnp.where(bits == np.iinfo(np.int32).min, 0, bits)  # -0.0 equals 0.0
    changes = bits[:, 1:] != bits[:, :-1]
    return jnp.pad(changes, ((0, 0), (0, 1)), constant_values=True)


def average_precision(
    ends: jax.Array, found: jax.Array, kept: jax.Array, num_positives: jax.Array, k: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """AP@k and retrieval recall@k of each list after entries were removed from it.

    Removed entries shorten the list; it is cut at k afterwards and not filled up again.

    Args:
        ends: [Q, K] bool, what `tie_ends` gives for the whole list.
        found: [Q, K] bool, the entry is a positive of the query (removed ones do not matter).
        kept: [Q, K] bool, false for entries that are removed before the cut.
        num_positives: [Q] int32, positives of the query in the database (without removed ones).
        k: int32 scalar >= 1, the cut.

    Returns:
        (ap, recall), both [Q] float64 fractions in [0, 1]; 0 where nothing is found, so also where
        a query has no positive left. Recall@k is found / P; the official "oracle", mean(found) * k
        / P over the list, is the same for a list of k entries, but too high by k / length for a
        shorter one.
    """
    rank = jnp.cumsum(kept, axis=1, dtype=jnp.int32)
    found = found & kept & (rank <= k)
    hits = jnp.cumsum(found, axis=1, dtype=jnp.int32)
    end_rank = _at_tie_end(jnp.minimum(rank, k), ends)
    precision = _at_tie_end(hits, ends) / end_rank.astype(jnp.float64)
    total = jnp.sum(jnp.where(found, precision, 0.0), axis=1, dtype=jnp.float64)
    ap = total / jnp.maximum(jnp.minimum(num_positives, k), 1)
    recall = hits[:, -1] / jnp.maximum(num_positives, 1).astype(jnp.float64)
    return ap, recall


def _at_tie_end(counts: jax.Array, ends: jax.Array) -> jax.Array:
    """Gives each entry the count at the end of its tie; counts [Q, K] int32 never decrease."""
    never = np.iinfo(np.int32).max
    return jax.lax.cummin(jnp.where(ends, counts, never), axis=1, reverse=True)
