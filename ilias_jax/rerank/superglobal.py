"""SuperGlobal's re-ranking (Shao et al., ICCV 2023, section 3.3): global vectors alone."""

from typing import ClassVar

import jax
import jax.numpy as jnp

from ilias_jax.rerank.lists import ListReranker

NEIGHBOURS = 9  # K, beside an image itself
BETA = 0.15


class SuperGlobal(ListReranker):
    """Refines the images of a list and the query by their neighbours in it.

    An image becomes the mean of itself, of weight 1, and its K nearest, weighted by beta times
    their inner products; it is not normalised again. The expanded query is the largest value of
    each channel over the K + 1 refined images nearest to the query. A score is the mean of the
    inner products of a refined image with both queries. An image itself is the one of weight 1
    also where a copy of it, or a longer vector, would be nearer; in the authors' code it is whoever
    comes first. Of equally near ones those are taken that the search has put first.
    """

    settings: ClassVar[dict[str, object]] = {"neighbours": NEIGHBOURS, "beta": BETA}

    @staticmethod
    def one(query: jax.Array, images: jax.Array, /) -> jax.Array:
        """See `OneList`."""
        count = min(NEIGHBOURS + 1, len(images))
        itself = jnp.eye(len(images), dtype=bool)
        products, nearest = jax.lax.top_k(jnp.where(itself, jnp.inf, images @ images.T), count)
        weights = (BETA * products).at[:, 0].set(1.0)
        refined = jnp.einsum("ik,ikd->id", weights, images[nearest])
        refined = refined / weights.sum(axis=1, keepdims=True)
        first = refined @ query
        _, best = jax.lax.top_k(first, count)
        return (first + refined @ refined[best].max(axis=0)) / 2
