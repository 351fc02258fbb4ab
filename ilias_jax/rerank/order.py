"""The final order: re-ranked entries first, the tail behind them as it was."""

import dataclasses

import numpy as np

from ilias_jax.search.ranking import Ranking


def reorder(ranking: Ranking, scores: np.ndarray) -> Ranking:
    """Sorts the first M entries of every list by other scores; the rest keeps its order.

    The new scores fall strictly along a list, so that whoever sorts by them, as the official
    evaluator does, gets this order: those of the first M are `scores`, those of the tail are the
    old ones below the smallest of them. Where two would be equal, the later one is the next smaller
    float32.

    Args:
        ranking: lists of K entries.
        scores: [Q, M] finite, M <= K, higher is better; equal ones keep their order.

    Returns:
        The same entries in the new order.
    """
    length = scores.shape[1]
    order = np.argsort(-scores, axis=1, kind="stable")
    head, tail = ranking.indices[:, :length], ranking.indices[:, length:]
    indices = np.concatenate([np.take_along_axis(head, order, axis=1), tail], axis=1)
    first = np.take_along_axis(scores, order, axis=1).astype(np.float32)
    rest = ranking.scores[:, length:].astype(np.float64)
    # One below the smallest: far enough for cosines to stay distinct, and none can reach it.
    rest = first[:, -1:].astype(np.float64) - 1 + np.minimum(rest - rest[:, :1], 0)
    limits = np.finfo(np.float32)
    together = np.concatenate([first, rest.clip(limits.min, limits.max).astype(np.float32)], axis=1)
    return dataclasses.replace(ranking, indices=indices, scores=_falling(together))


def _falling(scores: np.ndarray) -> np.ndarray:
    """Scores [Q, K] float32, each below the one before it; as they are where they are so."""
    fallen = scores.copy()
    for column in range(1, fallen.shape[1]):
        below = np.nextafter(fallen[:, column - 1], np.float32(-np.inf))
        fallen[:, column] = np.minimum(fallen[:, column], below)
    return fallen
