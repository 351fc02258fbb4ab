"""Query expansion: a query and what it found, averaged into a new query (Chum et al., 2007)."""

from collections.abc import Callable

import numpy as np


def neighbour_weights(scores: np.ndarray, alpha: float) -> np.ndarray:
    """Weights of neighbours: their scores to the power of alpha (Radenovic et al., 2018).

    A negative score has no real power, so its weight is 0. With alpha 0 every weight is 1 whatever
    the score, which is plain average query expansion.

    Args:
        scores: [...] float32 inner products.
        alpha: exponent, at least 0.

    Returns:
        [...] float32.
    """
    return np.power(np.maximum(scores, 0, dtype=np.float32), np.float32(alpha))


def expand_queries(
    queries: np.ndarray,
    scores: np.ndarray,
    indices: np.ndarray,
    rows: Callable[[np.ndarray], np.ndarray],
    alpha: float,
) -> np.ndarray:
    """The mean of every query, of weight 1, and its weighted neighbours, L2-normalised.

    Sums are in float32 and in the order of the neighbours.

    Args:
        queries: [Q, D] float16 or float32 as they were searched, adapted if the database is.
        scores: [Q, n] float32 of the neighbours; the caller cuts the lists to n.
        indices: [Q, n] database indices of the neighbours.
        rows: gives the database's vectors [U, D] of indices [U]. Every neighbour is fetched once,
            so at most Q x n vectors are held.
        alpha: exponent of the scores; see `neighbour_weights`.

    Returns:
        [Q, D] float32; where the sum is zero the query as it is.
    """
    wanted, which = np.unique(indices, return_inverse=True)
    neighbours, weights = rows(wanted), neighbour_weights(scores, alpha)
    own = queries.astype(np.float32)
    total = own.copy()
    for column, weight in zip(which.reshape(indices.shape).T, weights.T, strict=True):
        total += weight[:, None] * neighbours[column].astype(np.float32)
    norm = np.linalg.norm(total, axis=1, keepdims=True)
    return np.where(norm > 0, total / np.where(norm > 0, norm, 1), own)
