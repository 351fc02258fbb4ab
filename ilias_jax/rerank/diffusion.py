"""Diffusion (Iscen et al., CVPR 2017), truncated to the shortlist."""

from typing import ClassVar

import jax
import jax.numpy as jnp

from ilias_jax.rerank.lists import ListReranker

NEIGHBOURS, QUERY_NEIGHBOURS = 50, 10  # of an image in the graph, and of the query
ALPHA, GAMMA = 0.99, 3  # share that is passed on, and exponent of inner products
# Of the residual, over y. With a condition number of (1 + alpha) / (1 - alpha) about 130 steps are
# enough by the bound of Chebyshev polynomials; 200 end where rounding prevents it.
_TOLERANCE, _MAX_STEPS = 1e-6, 200


class Diffusion(ListReranker):
    """Scores by what a random walk from the query's nearest images leaves at each image.

    The graph has an edge between images that are among each other's nearest, of weight
    max(s, 0)**gamma, divided by the roots of both ends' sums. Scores f solve
    (I - alpha S) f = y, y being the query's weights of its nearest. Eigenvalues of S are in
    [-1, 1], so that conjugate gradients (Hestenes and Stiefel, 1952) need few steps. What the walk
    does not reach scores 0 and keeps its order.
    """

    settings: ClassVar[dict[str, object]] = {
        "neighbours": NEIGHBOURS,
        "query_neighbours": QUERY_NEIGHBOURS,
        "alpha": ALPHA,
        "gamma": GAMMA,
    }

    @staticmethod
    def one(query: jax.Array, images: jax.Array, /) -> jax.Array:
        """See `OneList`."""
        edges = jnp.maximum(images @ images.T, 0.0) ** GAMMA
        edges = edges * (1 - jnp.eye(len(images), dtype=edges.dtype))
        near = edges >= jax.lax.top_k(edges, min(NEIGHBOURS, len(images)))[0][:, -1:]
        edges = jnp.where(near & near.T, edges, 0.0)
        roots = jnp.sqrt(edges.sum(axis=1))
        shares = jnp.where(roots > 0, 1 / jnp.where(roots > 0, roots, 1.0), 0.0)
        similarities = jnp.maximum(images @ query, 0.0) ** GAMMA
        least = jax.lax.top_k(similarities, min(QUERY_NEIGHBOURS, len(images)))[0][-1]
        start = jnp.where(similarities >= least, similarities, 0.0)
        found, _ = jax.scipy.sparse.linalg.cg(
            lambda f: f - ALPHA * shares * (edges @ (shares * f)),
            start,
            x0=0 * start,  # which differs between devices, as the steps do
            tol=_TOLERANCE,
            maxiter=_MAX_STEPS,
        )
        return found
