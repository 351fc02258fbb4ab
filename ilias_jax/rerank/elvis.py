"""ELViS: efficient visual similarity from local descriptors (Suma et al., ICLR 2026).

The similarities of all pairs of descriptors, with a dust bin on either side for those without a
match, become a transport plan by ten rounds of Sinkhorn's algorithm; every descriptor's best match
in it votes.

The authors compute the plan from logarithms of its scalings. Similarities and gains are in [-1, 1]
and their temperature is 10, so their exponentials, and scalings of them, are far from the ends of
float32, and here rounds are products of a matrix with vectors. A padded descriptor has no match but
the dust bin and exactly its own share of it, so padding is a number in the sums; the authors'
scores depend on how much of it there is, and so do these, for they take it as fixed.
"""

import dataclasses
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from ilias_jax.config import RerankConfig
from ilias_jax.rerank.descriptors import LocalSettings
from ilias_jax.rerank.layers import (
    DIM,
    Parameters,
    Products,
    Remap,
    exact,
    is_real,
    l2_normalize,
    layer_norm,
)
from ilias_jax.rerank.local import Combination, LocalMethod, configured_weights, origin_of
from ilias_jax.rerank.pairs import PairScorer
from ilias_jax.rerank.weights import check_weights

# Raise it when the same descriptors and weights give other scores than before.
REVISION = 1
ROUNDS, TEMPERATURE = 10, 10.0
_VOTE = 16  # hidden units of the votes
_VOTE_EPSILON = 1e-6
# Of the two dust bins' own similarity times the temperature. Above it the dust bins are each
# other's match alone to all digits of float32, as everything else is at most e^10.
_LARGEST = 60.0
_EXAMPLE = "http://ptak.felk.cvut.cz/personal/sumapave/public/elvis/networks/dinov2_elvis_gld.pt"
# `g` was used in training alone.
_UNUSED = tuple(f"g.{number}.{name}" for number in (0, 2) for name in ("weight", "bias"))


class _Side(NamedTuple):
    """Descriptors of an image, or of several.

    Attributes:
        x: [..., n, 128], L2-normalised.
        dust: [..., n] exponential of their similarity to the other side's dust bin.
        real: [..., n].
        padding: [...] how many are missing to the fixed number.
    """

    x: jax.Array
    dust: jax.Array
    real: jax.Array
    padding: jax.Array


class _Scales(NamedTuple):
    """Scalings of Sinkhorn's algorithm: of rows [P, Q], of columns [P, T], of the dust bins [P].

    `padding` [P] is the sum of the padded columns' scalings, each times its dust bin's entry.
    """

    rows: jax.Array
    columns: jax.Array
    row_dust: jax.Array
    column_dust: jax.Array
    padding: jax.Array


@dataclasses.dataclass(frozen=True)
class ElvisComparison:
    """The matching behind the projection.

    Attributes:
        remap: whose second half comes first.
        products: of the chosen dtype.
        num_query, num_database: padded descriptors of an image, at least as many as are real.
    """

    remap: Remap
    products: Products
    num_query: int
    num_database: int

    def prepare(self, parameters: Parameters, values: jax.Array, count: jax.Array) -> _Side:
        """See `pairs.Comparison`."""
        return self._side(parameters, values, count, self.num_query)

    def compare(
        self, parameters: Parameters, query: _Side, values: jax.Array, counts: jax.Array
    ) -> jax.Array:
        """Scores [P], sums of a vote in (0, 1) a descriptor; see `pairs.Comparison`."""
        database = self._side(parameters, values, counts, self.num_database)
        best = self._best_matches(parameters, query, database)
        real = jnp.broadcast_to(query.real, (len(values), len(query.real)))
        votes = jax.nn.sigmoid(self._vote(parameters, jnp.concatenate(best, axis=1)))
        return jnp.where(jnp.concatenate([real, database.real], axis=1), votes, 0.0).sum(axis=1)

    def _side(
        self, parameters: Parameters, values: jax.Array, counts: jax.Array, padded: int
    ) -> _Side:
        x = self.remap.features(self.products, parameters, values)
        x = l2_normalize(x) if self.remap.is_binary else x
        dust = self._dust(self.products, parameters, x)
        return _Side(x, dust, is_real(values.shape[-2], counts), padded - counts)

    def _dust(self, products: Products, parameters: Parameters, x: jax.Array) -> jax.Array:
        hidden = jax.nn.gelu(products.dense(x, parameters, "dust_bin_mlp.0"), approximate=False)
        gain = jnp.tanh(products.dense(hidden, parameters, "dust_bin_mlp.2")[..., 0])
        return jnp.exp(gain * TEMPERATURE)

    def _padding_dust(self, parameters: Parameters) -> jax.Array:
        """The same of a descriptor of zeros, which the authors pad with."""
        zeros = jnp.zeros(DIM if self.remap.is_binary else self.remap.input_dim)
        x = self.remap.dense(exact, parameters, zeros)
        return self._dust(exact, parameters, l2_normalize(x))

    def _best_matches(
        self, parameters: Parameters, query: _Side, database: _Side
    ) -> tuple[jax.Array, jax.Array]:
        """The largest entry of the plan for each descriptor: [P, Q] and [P, T], 0 for padding."""
        similar = self.products("qc,ptc->pqt", query.x, database.x)
        both = query.real[:, None] & database.real[:, None, :]
        kernel = jnp.where(both, jnp.exp(similar * TEMPERATURE), 0.0)
        scales = self._scale(parameters, query, database, kernel)
        total = float(self.num_query + self.num_database)
        plan = kernel * scales.columns[:, None, :]
        rows = plan.max(axis=2) * scales.rows * total
        columns = (kernel * scales.rows[:, :, None]).max(axis=1) * scales.columns * total
        return rows, columns

    def _scale(
        self, parameters: Parameters, query: _Side, database: _Side, kernel: jax.Array
    ) -> _Scales:
        """Sinkhorn's rounds, rows first; equations (3) to (5) of Sarlin et al. (SuperGlue, 2020).

        Marginals are one share for every descriptor, padded or not, and for a dust bin as many as
        the other side has.
        """
        share = 1.0 / (self.num_query + self.num_database)
        corner = jnp.exp(jnp.minimum(parameters["dust_bin"] * TEMPERATURE, _LARGEST))

        def row_dust(columns: jax.Array, column_dust: jax.Array, padding: jax.Array) -> jax.Array:
            others = (database.dust * columns).sum(axis=1) + padding
            return share * self.num_database / (others + corner * column_dust)

        def one(_: jax.Array, old: _Scales) -> _Scales:
            sums = exact("pqt,pt->pq", kernel, old.columns)
            rows = share / (sums + query.dust * old.column_dust[:, None])
            rows = jnp.where(query.real, rows, 0.0)
            dust_row = row_dust(old.columns, old.column_dust, old.padding)
            sums = exact("pqt,pq->pt", kernel, rows)
            columns = share / (sums + database.dust * dust_row[:, None])
            columns = jnp.where(database.real, columns, 0.0)
            others = (query.dust * rows).sum(axis=1) + query.padding * share / old.column_dust
            dust_column = share * self.num_query / (others + corner * dust_row)
            padding = database.padding * share / dust_row
            return _Scales(rows, columns, dust_row, dust_column, padding)

        pairs, num_query, _ = kernel.shape
        ones = jnp.ones(pairs, jnp.float32)
        padding = database.padding * self._padding_dust(parameters)
        rows = jnp.zeros((pairs, num_query), jnp.float32)
        start = _Scales(rows, database.real.astype(jnp.float32), ones, ones, padding)
        return jax.lax.fori_loop(0, ROUNDS, one, start)

    def _vote(self, parameters: Parameters, matches: jax.Array) -> jax.Array:
        """[...] of matches [...]: before the sigmoid."""
        x = exact.dense(matches[..., None], parameters, "f.0")
        x = jax.nn.gelu(layer_norm(x, parameters, "f.1", _VOTE_EPSILON), approximate=False)
        return exact.dense(x, parameters, "f.3")[..., 0]


@dataclasses.dataclass(frozen=True, eq=False)
class Elvis(LocalMethod):
    """ELViS, whose score alone ranks.

    Mixed with the search's it goes through a sigmoid of a temperature of 0.5, as in the authors'
    code, which is 1 to all digits for most; choose a lower one then.
    """

    usual: ClassVar[LocalSettings] = LocalSettings("dinov2_vitb14_reg", 770, 600, "bicubic")
    takes_detector_map: ClassVar[bool] = False
    projection: ClassVar[str] = "elvis"

    remap: Remap

    @classmethod
    def create(cls, config: RerankConfig, mesh: jax.sharding.Mesh) -> "Elvis":
        """One of the configuration's weights.

        Raises:
            UserError: they are not named, missing, damaged or of another network.
        """
        found = configured_weights(config, _EXAMPLE)
        remap = Remap.of(found)
        place = f"rerank.weights: {config.weights}"
        found = check_weights(found, shapes(remap), place, _UNUSED)
        products, usual = Products.configured(config), cls.usual.num_descriptors
        counts = config.query_descriptors or usual, config.database_descriptors or usual
        return cls(
            PairScorer(ElvisComparison(remap, products, *counts), found, mesh),
            remap.storage,
            remap.input_dim,
            {name: found[name] for name in remap.once},
            Combination(None, 0.5).configured(config),
            origin_of(config, products.dtype, REVISION),
            remap,
        )

    def project(self, parameters: Any, values: jax.Array) -> jax.Array:
        """What is kept of descriptors [..., D] float32, [..., 128] float32."""
        projected = self.remap.project(parameters, values)
        return projected if self.remap.is_binary else l2_normalize(projected)


def shapes(remap: Remap) -> dict[str, tuple[int, ...]]:
    """Of all tensors of a checkpoint that scores depend on."""
    sizes = {"dust_bin_mlp.0": (DIM, DIM), "dust_bin_mlp.2": (1, DIM)}
    sizes |= {"f.0": (_VOTE, 1), "f.3": (1, _VOTE)}
    dense = {f"{name}.weight": size for name, size in sizes.items()}
    biases = {f"{name}.bias": size[:1] for name, size in sizes.items()}
    norm = {"f.1.weight": (_VOTE,), "f.1.bias": (_VOTE,)}
    return {"dust_bin": (), **remap.shapes, **dense, **biases, **norm}
