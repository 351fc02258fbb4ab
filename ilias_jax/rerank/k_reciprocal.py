"""k-reciprocal encoding (Zhong et al., CVPR 2017) of a query and its shortlist."""

from typing import ClassVar

import jax
import jax.numpy as jnp

from ilias_jax.rerank.lists import ListReranker

K1, K2 = 20, 6  # neighbours of an encoding, and those that it is averaged over
LAMBDA = 0.3  # weight of the original distance


class KReciprocal(ListReranker):
    """Scores by minus the paper's final distance, the query and its list being the whole gallery.

    Every image, and the query, is encoded as weights over its k-reciprocal neighbours; the distance
    is 1 - lambda times the Jaccard distance of two encodings and lambda times the squared Euclidean
    one, which is divided by the largest of the row. Of equally near points those are taken
    that the search has put first, so that copies have the same neighbours.
    """

    settings: ClassVar[dict[str, object]] = {"k1": K1, "k2": K2, "lambda": LAMBDA}

    @staticmethod
    def one(query: jax.Array, images: jax.Array, /) -> jax.Array:
        """See `OneList`."""
        points = jnp.concatenate([query[None], images])
        distances = _distances(points)
        encodings = _encodings(distances)
        shared = jnp.minimum(encodings[0], encodings).sum(axis=1)
        jaccard = 1 - shared / (2 - shared)
        return -((1 - LAMBDA) * jaccard + LAMBDA * distances[0])[1:]


def _distances(points: jax.Array) -> jax.Array:
    """[N, N] float32 squared Euclidean ones of points [N, D], over the largest of each row."""
    squares = jnp.square(points).sum(axis=1)
    distances = jnp.maximum(squares[:, None] + squares - 2 * points @ points.T, 0.0)
    distances = distances * (1 - jnp.eye(len(points), dtype=distances.dtype))
    largest = distances.max(axis=1, keepdims=True)
    return distances / jnp.where(largest > 0, largest, 1.0)


def _encodings(distances: jax.Array) -> jax.Array:
    """[N, N] float32 weights of each point's neighbours, of distances [N, N]."""
    reciprocal, half = _mutual(distances, K1 + 1), _mutual(distances, round(K1 / 2) + 1)
    # A neighbour's own neighbours join if more than two thirds of them are there already.
    joins = reciprocal * (3 * (reciprocal @ half.T) > 2 * half.sum(axis=1))
    members = (reciprocal + joins @ half) > 0
    weights = jnp.where(members, jnp.exp(-distances), 0.0)
    # A point with more copies before it than neighbours is not among its own, and may have none.
    sums = weights.sum(axis=1, keepdims=True)
    encodings = weights / jnp.where(sums > 0, sums, 1.0)
    _, nearest = jax.lax.top_k(-distances, min(K2, len(distances)))
    return encodings[nearest].mean(axis=1)


def _mutual(distances: jax.Array, count: int) -> jax.Array:
    """[N, N] float32, 1 where two points are among each other's `count` nearest."""
    _, nearest = jax.lax.top_k(-distances, min(count, len(distances)))
    rows = jnp.arange(len(distances))[:, None]
    near = jnp.zeros_like(distances).at[rows, nearest].set(1.0)
    return near * near.T
