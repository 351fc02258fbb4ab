"""Exact search shared by the processes of a distributed program: each has some of the rows."""

import jax
import numpy as np
from jax.experimental import multihost_utils

from ilias_jax.search import keys


def own_rows(num_rows: int) -> range:
    """The neighbouring rows of [0, N) that this process searches; together they are all rows."""
    each = -(-num_rows // jax.process_count())
    start = min(num_rows, each * jax.process_index())
    return range(start, min(num_rows, start + each))


def merge_lists(scores: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The best of all processes' lists; a collective, with the same result everywhere.

    Args:
        scores: [Q, k] float32, falling; -inf where this process has no more rows.
        rows: [Q, k] int32.

    Returns:
        The same of the whole database.
    """
    if jax.process_count() == 1:
        return scores, rows
    all_scores, all_rows = multihost_utils.process_allgather((scores, rows))
    packed = np.where(np.isneginf(all_scores), keys.LAST, keys.pack(all_scores, all_rows))
    merged = np.sort(np.concatenate(packed, axis=1), axis=1)[:, : scores.shape[1]]
    return keys.scores_of(merged), keys.rows_of(merged).astype(np.int32)


def add_places(at_or_above: np.ndarray, rank: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Places among the rows of all processes; a collective, with the same result everywhere.

    Args:
        at_or_above: [n] int32 of this process's rows, in [0, k + 1].
        rank: [n] int32, 1 + those of this process's rows that stand before, at most k + 1.
        k: up to which both are exact.

    Returns:
        The same of the whole database.
    """
    if jax.process_count() == 1:
        return at_or_above, rank
    counts, before = multihost_utils.process_allgather((at_or_above, rank - 1))
    ranks = np.minimum(before.sum(axis=0) + 1, k + 1)
    totals = np.where(ranks > k, k + 1, np.minimum(counts.sum(axis=0), k + 1))
    return totals.astype(np.int32), ranks.astype(np.int32)
