"""Query expansion: a query and what it found, averaged into a new query (Chum et al., 2007)."""

from collections.abc import Callable

import numpy as np

from ilias_jax.rerank.mean import neighbour_weights, weighted_mean


def expand_queries(
    queries: np.ndarray,
    scores: np.ndarray,
    indices: np.ndarray,
    rows: Callable[[np.ndarray], np.ndarray],
    alpha: float,
) -> np.ndarray:
    """Averages every query with its neighbours, in the space that was searched.

    Args:
        queries: [Q, D] float16 or float32 as they were searched, adapted if the database is.
        scores: [Q, n] float32 of the neighbours; the caller cuts the lists to n.
        indices: [Q, n] database indices of the neighbours.
        rows: gives the database's vectors [U, D] of indices [U]. Every neighbour is fetched once,
            so at most Q x n vectors are held.
        alpha: exponent of the scores; see `neighbour_weights`.

    Returns:
        [Q, D] float32 new queries, L2-normalised.
    """
    wanted, places = np.unique(indices, return_inverse=True)
    weights = neighbour_weights(scores, alpha)
    return weighted_mean(queries, rows(wanted), places.reshape(indices.shape), weights)
