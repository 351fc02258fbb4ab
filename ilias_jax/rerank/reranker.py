"""The ways to re-rank, by name. A new one is a module with a class like `Reranker`, and its line.

A way takes the vectors that were searched, as query expansion does, or local descriptors. The
latter are projected once an image, when they are extracted, and stored so.
"""

from typing import ClassVar, Literal, Protocol

import jax
import numpy as np

from ilias_jax.config import RerankConfig
from ilias_jax.errors import UserError
from ilias_jax.rerank.ames import Ames
from ilias_jax.rerank.chamfer import Chamfer, DatabaseChamfer, SymmetricChamfer
from ilias_jax.rerank.descriptors import Descriptors, LocalSettings
from ilias_jax.rerank.diffusion import Diffusion
from ilias_jax.rerank.elvis import Elvis
from ilias_jax.rerank.k_reciprocal import KReciprocal
from ilias_jax.rerank.spatial import Spatial
from ilias_jax.rerank.superglobal import SuperGlobal


class Reranker(Protocol):
    """Scores the shortlists of some queries."""

    # What it compares: the vectors that were searched, or local descriptors.
    inputs: ClassVar[Literal["vectors", "descriptors"]]

    @classmethod
    def create(cls, config: RerankConfig, mesh: jax.sharding.Mesh) -> "Reranker":
        """One with its own options of the configuration, its weights read and checked."""
        ...

    def score(
        self,
        queries: np.ndarray | Descriptors,
        images: np.ndarray | Descriptors,
        indices: np.ndarray,
        similarities: np.ndarray,
    ) -> np.ndarray:
        """Scores every query against the images of its shortlist.

        Args:
            queries: [B, D] float32 vectors, L2-normalised, or descriptors of B images.
            images: [U, D] likewise, or descriptors of U images.
            indices: [B, M] which of the U images each query's shortlist holds, best first.
            similarities: [B, M] float32, falling: scores of the search.

        Returns:
            [B, M] float32, higher is better.
        """
        ...

    def combine(self, similarities: np.ndarray, scores: np.ndarray) -> np.ndarray:
        """[B, M] float32 that a shortlist is sorted by, of the search's and this one's scores."""
        ...

    def facts(self) -> dict[str, object]:
        """What it is and what it ran with, for the report: published name, weights' hash, ..."""
        ...


class LocalReranker(Reranker, Protocol):
    """One of local descriptors."""

    usual: ClassVar[LocalSettings]

    # What it compares of a tower's tokens, where there is a detector: its normalised map, or the
    # L2-normalised tokens themselves, which the detector only chooses from.
    takes_detector_map: ClassVar[bool]
    # Names what `project` does; methods of one name and equal parameters share descriptors.
    projection: ClassVar[str]
    # How projected database descriptors are stored; those of queries are "float32" or "bits".
    storage: Literal["float16", "bits"]

    def project(self, parameters: object, values: jax.Array) -> jax.Array:
        """What is stored of descriptors [..., D] float32, to be traced: [..., d] float32.

        Where `storage` is "bits", the signs of the result are stored.
        """
        ...

    @property
    def parameters(self) -> object:
        """Of `project`, a pytree of arrays."""
        ...

    @property
    def input_dim(self) -> int | None:
        """D that `project` takes; None for any."""
        ...


RERANKERS: dict[str, type[Reranker]] = {
    "ames": Ames,
    "elvis": Elvis,
    "chamfer": Chamfer,
    "chamfer_database": DatabaseChamfer,
    "chamfer_symmetric": SymmetricChamfer,
    "spatial": Spatial,
    "superglobal": SuperGlobal,
    "k_reciprocal": KReciprocal,
    "diffusion": Diffusion,
}


def check_method(name: str) -> None:
    """Raises UserError unless `rerank.method` names one of `RERANKERS`, or is empty."""
    if name and name not in RERANKERS:
        allowed = ", ".join(map(repr, RERANKERS))
        raise UserError(f"rerank.method={name!r} is not allowed; it must be '' or one of {allowed}")
