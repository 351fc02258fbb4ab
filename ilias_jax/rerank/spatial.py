"""Spatial verification: how many matches of two images one affine map explains.

As in DELG (Cao et al., ECCV 2020, section 5): each query descriptor is matched to its nearest
database descriptor, and RANSAC finds the map from the database image to the query. The same draws
serve all pairs, so that a score depends on its pair alone.
"""

import dataclasses
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ilias_jax.config import RerankConfig
from ilias_jax.rerank.chamfer import Chamfer
from ilias_jax.rerank.descriptors import Descriptors, LocalSettings
from ilias_jax.rerank.layers import Parameters, Products, is_real, l2_normalize
from ilias_jax.rerank.local import Combination, LocalMethod, origin_of
from ilias_jax.rerank.options import refuse_unused
from ilias_jax.rerank.pairs import PairScorer
from ilias_jax.rerank.ransac import HYPOTHESES, Matches, count_inliers, draws

# Raise it when the same descriptors give other scores than before.
REVISION = 1
MAX_DISTANCE = 0.9  # of a match, between L2-normalised descriptors
RESIDUAL = 10.0  # pixels of the resized query that an inlier is off at most
SEED = 0
# Of a similarity in the final score: below 1, in float32 even behind thousands of inliers.
_SIMILARITY_SHARE = 0.999


class _Query(NamedTuple):
    """Descriptors [Q, d], their places [Q, 2] and which of them are real [Q]."""

    values: jax.Array
    places: jax.Array
    real: jax.Array


@dataclasses.dataclass(frozen=True)
class SpatialComparison:
    """Inliers of a query and images, whose values end with a descriptor's place.

    Parameters are "draws" and "residual"; see `ransac.count_inliers`.

    Attributes:
        products: of the chosen dtype.
    """

    products: Products

    def prepare(self, parameters: Parameters, values: jax.Array, count: jax.Array) -> _Query:
        """See `pairs.Comparison`."""
        values, places = _split(values)
        return _Query(values, places, is_real(len(values), count))

    def compare(
        self, parameters: Parameters, query: _Query, values: jax.Array, counts: jax.Array
    ) -> jax.Array:
        """Inliers [P]; see `pairs.Comparison`."""
        values, places = _split(values)
        of_query, of_images = (jnp.square(each).sum(axis=-1) for each in (query.values, values))
        products = self.products("qc,ptc->pqt", query.values, values)
        distances = of_query[:, None] + of_images[:, None, :] - 2 * products
        real = is_real(values.shape[1], counts)
        distances = jnp.where(real[:, None, :], distances, jnp.inf)
        near = query.real & (distances.min(axis=2) < MAX_DISTANCE**2)
        nearest = distances.argmin(axis=2)
        return jax.vmap(
            lambda sources, chosen, real: count_inliers(
                Matches(sources[chosen], query.places, real),
                parameters["draws"],
                parameters["residual"],
            )
        )(places, nearest, near)


def _split(values: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Descriptors [..., d] and places [..., 2], float32."""
    values = values.astype(jnp.float32)
    return values[..., :-2], values[..., -2:]


def _placed(descriptors: Descriptors) -> Descriptors:
    """The same, with places as the last two channels of the values."""
    values = descriptors.values
    places = descriptors.locations.astype(values.dtype)
    return dataclasses.replace(descriptors, values=np.concatenate([values, places], axis=-1))


@dataclasses.dataclass(frozen=True, eq=False)
class Spatial(LocalMethod):
    """Orders by inliers, and equal ones by the search's scores.

    Locations are shares of height and width, and so is the residual: its pixels over those of the
    longest side. Along a shorter side it is as much less as that is shorter.
    """

    usual: ClassVar[LocalSettings] = LocalSettings(resolution=770)
    takes_detector_map: ClassVar[bool] = Chamfer.takes_detector_map
    projection: ClassVar[str] = Chamfer.projection  # without weights both keep the same

    @classmethod
    def create(cls, config: RerankConfig, mesh: jax.sharding.Mesh) -> "Spatial":
        """One as configured.

        Raises:
            UserError: the configuration has something that verification does not know.
        """
        unused = "weights", "similarity_weight", "temperature"
        refuse_unused(config, unused, "orders by inliers and then by similarity")
        products = Products.configured(config)
        residual = RESIDUAL / (config.resolution or cls.usual.resolution)
        parameters = {"draws": draws(SEED), "residual": np.float32(residual)}
        options = {"max_distance": MAX_DISTANCE, "residual": residual, "hypotheses": HYPOTHESES}
        return cls(
            PairScorer(SpatialComparison(products), parameters, mesh),
            "float16",
            None,
            {},
            Combination(),
            {**options, "seed": SEED, **origin_of(config, products.dtype, REVISION)},
        )

    def project(self, parameters: Parameters, values: jax.Array) -> jax.Array:
        """What is kept of descriptors [..., D] float32: each L2-normalised."""
        return l2_normalize(values)

    def score(
        self,
        queries: np.ndarray | Descriptors,
        images: np.ndarray | Descriptors,
        indices: np.ndarray,
        similarities: np.ndarray,
    ) -> np.ndarray:
        """Inliers [B, M] float32; see `reranker.Reranker`."""
        assert isinstance(queries, Descriptors) and isinstance(images, Descriptors)
        return self.scorer.score(_placed(queries), _placed(images), indices)

    def combine(self, similarities: np.ndarray, scores: np.ndarray) -> np.ndarray:
        """Inliers plus a similarity of [-1, 1] as one of [0, 1), [B, M] float32.

        Similarities that float32 does not tell apart there stay in their order.
        """
        shares = (similarities.astype(np.float64).clip(-1, 1) + 1) / 2
        return (scores + _SIMILARITY_SHARE * shares).astype(np.float32)

    def facts(self) -> dict[str, Any]:
        """For the report."""
        return dict(self.origin)
