"""Chamfer similarity of two sets of descriptors, as in ViSiL (Kordopatis-Zilos et al., 2019).

The mean over the descriptors of one image of the largest cosine to one of the other. Of bits the
cosine of +1 and -1, (d - 2 * Hamming distance) / d.
"""

import dataclasses
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp

from ilias_jax.config import RerankConfig
from ilias_jax.errors import UserError
from ilias_jax.rerank.descriptors import LocalSettings
from ilias_jax.rerank.layers import (
    Parameters,
    Products,
    exact,
    is_real,
    l2_normalize,
    unpack_signs,
)
from ilias_jax.rerank.local import Combination, LocalMethod, origin_of
from ilias_jax.rerank.pairs import PairScorer
from ilias_jax.rerank.weights import read_weights

# Raise it when the same descriptors give other scores than before.
REVISION = 1
Direction = Literal["query", "database", "both"]
_NAMES = ("remap_local.0.W", "W")  # of a binarisation, in a re-ranker's checkpoint or alone
_LEAST = -1.0  # of a cosine; that of padding, and of images without any descriptor


class _Query(NamedTuple):
    """Descriptors [Q, d] float32 and which of them are real."""

    values: jax.Array
    real: jax.Array


@dataclasses.dataclass(frozen=True)
class ChamferComparison:
    """The similarity.

    Attributes:
        direction: whose descriptors look for their nearest: those of the query, of the database, or
            "both" for the mean of the two.
        products: of the chosen dtype.
    """

    direction: Direction
    products: Products

    def prepare(self, parameters: Parameters, values: jax.Array, count: jax.Array) -> _Query:
        """See `pairs.Comparison`."""
        return _Query(_dense(values), is_real(len(values), count))

    def compare(
        self, parameters: Parameters, query: _Query, values: jax.Array, counts: jax.Array
    ) -> jax.Array:
        """Similarities [P] in [-1, 1]; see `pairs.Comparison`."""
        cosines = self.products("qc,ptc->pqt", query.values, _dense(values))
        if values.dtype == jnp.uint8:
            cosines = cosines / query.values.shape[1]
        real = is_real(values.shape[1], counts)
        cosines = jnp.where(query.real[:, None] & real[:, None, :], cosines, _LEAST)
        found = []
        if self.direction != "database":
            found.append(_mean(cosines.max(axis=2), query.real))
        if self.direction != "query":
            found.append(_mean(cosines.max(axis=1), real))
        return sum(found[1:], start=found[0]) / len(found)


def _dense(values: jax.Array) -> jax.Array:
    return unpack_signs(values) if values.dtype == jnp.uint8 else values.astype(jnp.float32)


def _mean(best: jax.Array, real: jax.Array) -> jax.Array:
    """Of [P, n] over the real ones; of none the least."""
    number = real.sum(axis=-1)
    mean = jnp.where(real, best, 0.0).sum(axis=-1) / jnp.maximum(number, 1)
    return jnp.where(number > 0, mean, _LEAST)


@dataclasses.dataclass(frozen=True, eq=False)
class Chamfer(LocalMethod):
    """Of the query's descriptors to the database's.

    Weights are those of a binarisation, of which bits are kept and compared; without any the
    L2-normalised descriptors are.
    """

    usual: ClassVar[LocalSettings] = LocalSettings()
    takes_detector_map: ClassVar[bool] = True
    projection: ClassVar[str] = "chamfer"
    direction: ClassVar[Direction] = "query"

    @classmethod
    def create(cls, config: RerankConfig, mesh: jax.sharding.Mesh) -> "Chamfer":
        """One as configured.

        Raises:
            UserError: the weights are missing, damaged or no binarisation.
        """
        parameters = _binarisation(config.weights) if config.weights else {}
        products = Products.configured(config)
        dims = [len(weight) for weight in parameters.values()]
        return cls(
            PairScorer(ChamferComparison(cls.direction, products), {}, mesh),
            "bits" if parameters else "float16",
            dims[0] if dims else None,
            parameters,
            Combination().configured(config),
            {"direction": cls.direction, **origin_of(config, products.dtype, REVISION)},
        )

    def project(self, parameters: Any, values: jax.Array) -> jax.Array:
        """What is kept of descriptors [..., D] float32; of a binarisation the signs."""
        values = l2_normalize(values)
        return exact("...i,io->...o", values, parameters["W"]) if parameters else values


class DatabaseChamfer(Chamfer):
    """Of the database's descriptors to the query's."""

    direction: ClassVar[Direction] = "database"


class SymmetricChamfer(Chamfer):
    """The mean of both directions."""

    direction: ClassVar[Direction] = "both"


def _binarisation(path: str) -> Parameters:
    """W [D, d] float32 of a checkpoint."""
    found = read_weights(path)
    weight = next((found[name] for name in _NAMES if name in found), None)
    if weight is None or weight.ndim != 2 or weight.shape[1] % 8:
        raise UserError(
            f"rerank.weights: {path} holds no binarisation, a matrix {' or '.join(_NAMES)} of a "
            "multiple of 8 columns; leave rerank.weights empty to compare descriptors as they are"
        )
    return {"W": weight.astype("float32")}
