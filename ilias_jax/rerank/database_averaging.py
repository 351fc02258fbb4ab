"""Database-side averaging: every database vector and its nearest ones, averaged (Turcot, 2009).

The whole database is in memory twice, before and after, 8 x N x D bytes. The search is exact and
takes N x N x D multiplications, in blocks of vectors that ask and of vectors that answer.
"""

from collections.abc import Callable

import numpy as np

from ilias_jax.errors import UserError
from ilias_jax.progress import track
from ilias_jax.rerank.mean import neighbour_weights, weighted_mean

_BLOCK = 2048  # vectors that ask at one time
Search = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


def check_memory(num_rows: int, dim: int, most_gib: float) -> None:
    """Raises UserError if averaging so many vectors takes more memory than it may."""
    needed = 8 * num_rows * dim
    if needed > most_gib * 2**30:
        raise UserError(
            f"rerank.database_averaging needs {needed:,} bytes ({needed / 2**30:,.1f} GiB) for "
            f"{num_rows:,} vectors of {dim} channels, more than "
            f"rerank.database_averaging_gib={most_gib:g}; raise that if the machine has them, or "
            "leave averaging to smaller databases"
        )


def average_database(vectors: np.ndarray, search: Search, count: int, alpha: float) -> np.ndarray:
    """Replaces every vector by the mean of itself and its neighbours.

    Args:
        vectors: [N, D] float32, L2-normalised.
        search: exact search over `vectors`: [B, D] -> scores [B, k] float32, falling, and indices
            [B, k], lower index first among equals, with k = min(count + 1, N).
        count: n, neighbours of each; itself is not one of them.
        alpha: exponent of the scores; see `neighbour_weights`.

    Returns:
        [N, D] float32, L2-normalised.
    """
    result = np.empty_like(vectors)
    block = min(_BLOCK, len(vectors))
    with track("database averaging", len(vectors)) as advance:
        for start in range(0, len(vectors), block):
            own = vectors[start : start + block]
            # Always as many rows, so that the search compiles once.
            asking = np.zeros((block, vectors.shape[1]), np.float32)
            asking[: len(own)] = own
            scores, indices = (found[: len(own)] for found in search(asking))
            scores, indices = _without_itself(scores, indices, start, count)
            weights = neighbour_weights(scores, alpha)
            result[start : start + block] = weighted_mean(own, vectors, indices, weights)
            advance(len(own))
    return result


def _without_itself(
    scores: np.ndarray, indices: np.ndarray, start: int, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """The first `count` of each list that are not the vector that asked.

    A vector may be missing from its own list when more than `count` others equal it; then the last
    of the list goes.
    """
    itself = indices == np.arange(start, start + len(indices))[:, None]
    itself[~itself.any(axis=1), -1] = True
    shape = (len(indices), indices.shape[1] - 1)
    kept = [array[~itself].reshape(shape)[:, :count] for array in (scores, indices)]
    return kept[0], kept[1]
