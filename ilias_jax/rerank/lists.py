"""What methods that look at a whole shortlist of vectors share.

They compare images of a list with each other and keep to the list, so that their work does not
depend on the size of the database. A chunk of queries has one query a device.
"""

import functools
from collections.abc import Callable
from typing import ClassVar, Literal

import jax
import numpy as np

from ilias_jax.config import RerankConfig
from ilias_jax.mesh import num_data_partitions, partitioned, per_partition
from ilias_jax.rerank.descriptors import Descriptors
from ilias_jax.rerank.options import refuse_unused

# Raise it when the same vectors give other scores than before.
REVISION = 1
# Detector, resolution and numbers of descriptors may stand in a recipe that offers both kinds.
_UNUSED = ("weights", "crop_queries", "temperature", "dtype")

# Query [D] and the images of its list [M, D], both float32 and L2-normalised -> [M] scores.
OneList = Callable[[jax.Array, jax.Array], jax.Array]


class ListReranker:
    """A method that scores one list at a time."""

    inputs: ClassVar[Literal["vectors", "descriptors"]] = "vectors"
    settings: ClassVar[dict[str, object]]

    def __init__(self, similarity_weight: float | None, mesh: jax.sharding.Mesh) -> None:
        self._weight, self._mesh = similarity_weight, mesh
        step = per_partition(mesh, functools.partial(_each, type(self).one), (True, True))
        self._step = jax.jit(step, out_shardings=partitioned(mesh))

    @staticmethod
    def one(query: jax.Array, images: jax.Array, /) -> jax.Array:
        """Scores one list; see `OneList`."""
        raise NotImplementedError

    @classmethod
    def create(cls, config: RerankConfig, mesh: jax.sharding.Mesh) -> "ListReranker":
        """The method; see `Reranker`.

        Raises:
            UserError: the configuration has something of local descriptors.
        """
        refuse_unused(config, _UNUSED, "compares the vectors that were searched")
        share = config.similarity_weight
        return cls(None if share < 0 else share, mesh)

    def score(
        self,
        queries: np.ndarray | Descriptors,
        images: np.ndarray | Descriptors,
        indices: np.ndarray,
        similarities: np.ndarray,
    ) -> np.ndarray:
        """Scores lists; see `Reranker`."""
        assert isinstance(queries, np.ndarray) and isinstance(images, np.ndarray)
        size, found = num_data_partitions(self._mesh), []
        for first in range(0, len(queries), size):
            rows = np.arange(first, first + size).clip(max=len(queries) - 1)
            chunk = queries[rows], images[indices[rows]]
            found.append(self._step(*jax.device_put(chunk, partitioned(self._mesh))))
        return np.concatenate(jax.device_get(found))[: len(queries)]

    def combine(self, similarities: np.ndarray, scores: np.ndarray) -> np.ndarray:
        """The scores alone, which have the search's in them, or mixed with those as asked for."""
        if self._weight is None:
            return scores
        weight = np.float32(self._weight)
        return weight * similarities + (1 - weight) * scores

    def facts(self) -> dict[str, object]:
        """Settings; see `Reranker`."""
        own = {**type(self).settings, "revision": REVISION}
        return {**own, "similarity_weight": self._weight}


def _each(one: OneList, queries: jax.Array, images: jax.Array) -> jax.Array:
    with jax.default_matmul_precision("highest"):
        return jax.lax.map(lambda chunk: one(*chunk), (queries, images))
