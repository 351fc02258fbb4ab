"""The mean of a vector and its neighbours, which both kinds of averaging take."""

import numpy as np


def neighbour_weights(scores: np.ndarray, alpha: float) -> np.ndarray:
    """Weights of neighbours: their scores to the power of alpha (Radenovic et al., 2018).

    A negative score has no real power and no business in a mean, so its weight is 0. With alpha 0
    every weight is 1 whatever the score, which is plain average query expansion.

    Args:
        scores: [...] float32 inner products.
        alpha: exponent, at least 0.

    Returns:
        [...] float32.
    """
    return np.power(np.maximum(scores, 0, dtype=np.float32), np.float32(alpha))


def weighted_mean(
    own: np.ndarray, table: np.ndarray, places: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """L2-normalised mean of each vector, of weight 1, and its weighted neighbours.

    Sums in float32 and in the order of the neighbours, so that the result depends on nothing else.

    Args:
        own: [B, D] float16 or float32 vectors.
        table: [U, D] float16 or float32, holds the neighbours.
        places: [B, n] rows of `table`.
        weights: [B, n] float32.

    Returns:
        [B, D] float32. Where the sum is zero the vector is returned as it is.
    """
    own = own.astype(np.float32)
    total = own.copy()
    for place, weight in zip(places.T, weights.T, strict=True):
        total += weight[:, None] * table[place].astype(np.float32)
    norm = np.linalg.norm(total, axis=1, keepdims=True)
    return np.where(norm > 0, total / np.where(norm > 0, norm, 1), own)
