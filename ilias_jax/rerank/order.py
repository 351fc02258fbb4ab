"""The final order: re-ranked entries first, the tail behind them as it was."""

import dataclasses

import numpy as np

from ilias_jax.errors import UserError
from ilias_jax.search.ranking import Ranking

# Of float32 in the order of their values: 0 is 0, the next larger value 1, the next smaller -1.
_LOWEST = -0x7F7FFFFF


def check_shortlist(shortlist: int, length: int) -> None:
    """Raises UserError unless the first M entries of lists of K can be re-ranked.

    Args:
        shortlist: M.
        length: K.
    """
    if not 1 <= shortlist <= length:
        raise UserError(
            f"rerank.shortlist={shortlist} is not allowed with lists of {length:,} entries; it "
            f"must be 1 to {length:,}, or search for longer lists"
        )


def reorder(ranking: Ranking, scores: np.ndarray) -> Ranking:
    """Sorts the first M entries of every list by other scores; the rest keeps its order.

    The new scores fall strictly along a list, so that whoever sorts by them, as the official
    evaluator does, gets this order: those of the first M are `scores`, those of the tail are the
    old ones below the smallest of them. Where two would be equal, the later one is the next smaller
    float32; at the lower end of float32 the earlier ones are moved up instead.

    Args:
        ranking: lists of K entries.
        scores: [Q, M] finite as float32, 1 <= M <= K, higher is better; equal ones keep their
            order.

    Returns:
        The same entries in the new order.

    Raises:
        ValueError: a score is NaN or infinite.
    """
    length = scores.shape[1]
    order = np.argsort(-scores, axis=1, kind="stable")
    head, tail = ranking.indices[:, :length], ranking.indices[:, length:]
    indices = np.concatenate([np.take_along_axis(head, order, axis=1), tail], axis=1)
    first = np.take_along_axis(scores, order, axis=1).astype(np.float32)
    if not np.isfinite(first).all():
        raise ValueError("a score to sort by is NaN or infinite")
    rest = ranking.scores[:, length:].astype(np.float64)
    # One below the smallest: far enough for cosines to stay distinct, and none can reach it.
    rest = first[:, -1:].astype(np.float64) - 1 + (rest - rest[:, :1])
    limits = np.finfo(np.float32)
    together = np.concatenate([first, rest.clip(limits.min, limits.max).astype(np.float32)], axis=1)
    return dataclasses.replace(ranking, indices=indices, scores=_falling(together))


def _falling(scores: np.ndarray) -> np.ndarray:
    """Finite scores [Q, K] float32, each below the one before it; as they are where they are so."""
    steps = np.arange(scores.shape[1])
    ordinals = np.minimum.accumulate(_ordinals(scores) + steps, axis=1) - steps
    return _of_ordinals(np.maximum(ordinals, _LOWEST + steps[::-1]))


def _ordinals(values: np.ndarray) -> np.ndarray:
    """Numbers [...] int64 of float32 in the order of their values; either zero has 0."""
    bits = np.ascontiguousarray(values).view(np.int32).astype(np.int64)
    return np.where(bits < 0, -(bits & 0x7FFFFFFF), bits)


def _of_ordinals(ordinals: np.ndarray) -> np.ndarray:
    bits = np.where(ordinals < 0, -ordinals | 0x80000000, ordinals)
    return bits.astype(np.uint32).view(np.float32)
