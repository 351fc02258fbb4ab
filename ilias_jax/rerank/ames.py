"""AMES: asymmetric and memory-efficient similarity (Suma et al., ECCV 2024).

A transformer over a match token and the descriptors of both images, without positions. Attention
alternates between within the images (self) and between them (cross); the match token sees all and
is seen by all. Here a sequence is [query, match token, database], so that both images' keys, each
with the token, are slices of it; what a masked square of all tokens would compute and throw away
is never computed:

- self attention of a query in the first layer is that of all its pairs;
- of the last cross attention and MLP only the match token's row is needed, and keys and values are
  folded into its query and its sum.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ilias_jax.config import RerankConfig
from ilias_jax.rerank.descriptors import LocalSettings
from ilias_jax.rerank.layers import DIM, Parameters, Products, Remap, is_real, layer_norm
from ilias_jax.rerank.local import Combination, LocalMethod, configured_weights, origin_of
from ilias_jax.rerank.pairs import PairScorer
from ilias_jax.rerank.weights import check_weights

# Raise it when the same descriptors and weights give other scores than before.
REVISION = 1
HEADS, HIDDEN, DEPTH = 2, 1024, 5
_SIZE = DIM // HEADS
_OUT = -1e30  # score of a masked key; finite, and the match token is never masked
# Of the published checkpoints, by channels of the descriptors and whether they are binary.
_COMBINATIONS = {
    (768, False): Combination(0.50, 0.20),
    (768, True): Combination(0.35, 0.10),
    (1024, False): Combination(0.85, 0.80),
    (1024, True): Combination(0.65, 0.20),
}
_EXAMPLE = (
    "http://ptak.felk.cvut.cz/personal/sumapave/public/ames/networks/dinov2_ames.pt or, for binary "
    "descriptors, dinov2_ames_dist.pt"
)


class _Query(NamedTuple):
    """What all pairs of a query share.

    Attributes:
        x: [Q, 128] behind the first self attention.
        keys, values: [heads, Q, 64] of that, for the match token.
        real: [Q].
    """

    x: jax.Array
    keys: jax.Array
    values: jax.Array
    real: jax.Array


@dataclasses.dataclass(frozen=True)
class AmesComparison:
    """The network behind the remapping.

    Attributes:
        remap: whose second half comes first.
        products: of the chosen dtype.
    """

    remap: Remap
    products: Products

    def prepare(self, parameters: Parameters, values: jax.Array, count: jax.Array) -> _Query:
        """See `pairs.Comparison`."""
        x = self.remap.features(self.products, parameters, values)
        layer, real = parameters["first"], is_real(len(x), count)
        together = jnp.concatenate([x, parameters["mtc_token"][None]])
        query, keys, values = self._heads(together[None], layer, "self_attn")
        masked = jnp.append(real, True)[None]
        attended = self._attend(query[:, :, :-1], keys, values, masked)
        x = self._after(x[None], attended, layer, "self_attn", "norm1")[0]
        return _Query(x, keys[0, :, :-1], values[0, :, :-1], real)

    def compare(
        self, parameters: Parameters, query: _Query, values: jax.Array, counts: jax.Array
    ) -> jax.Array:
        """Logits [P]; see `pairs.Comparison`."""
        x, real = self._first_self(parameters, query, values, counts)
        num_query = len(query.x)

        def step(x: jax.Array, layer: Parameters) -> tuple[jax.Array, None]:
            """Cross attention and MLP of a layer, and the next one's self attention."""
            x = self._attention(x, real, num_query, layer, "cross_attn", "norm2")
            x = self._mlp(x, layer)
            return self._attention(x, real, num_query, layer["next"], "self_attn", "norm1"), None

        x, _ = jax.lax.scan(step, x, parameters["middle"])
        token = self._last_cross(x, real, num_query, parameters["last"])
        token = self._mlp(token[:, None], parameters["last"])[:, 0]
        return self.products.dense(token, parameters, "classifier")[:, 0]

    def _first_self(
        self, parameters: Parameters, query: _Query, values: jax.Array, counts: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """The sequence [P, Q + 1 + T, 128] behind the first self attention, and its mask."""
        x = self.remap.features(self.products, parameters, values)
        if not self.remap.is_binary:
            # As AMES rounds the database. A cast there and back may be left out by a compiler.
            x = jax.lax.reduce_precision(x, exponent_bits=5, mantissa_bits=10)
        pairs, length, _ = x.shape
        token = jnp.broadcast_to(parameters["mtc_token"], (pairs, 1, DIM))
        x = jnp.concatenate([token, x], axis=1)
        layer = parameters["first"]
        rows, keys, values = self._heads(x, layer, "self_attn")
        real = jnp.concatenate([jnp.ones((pairs, 1), bool), is_real(length, counts)], axis=1)
        own = self._attend(rows[:, :, 1:], keys, values, real)
        shared = (jnp.broadcast_to(each, (pairs, *each.shape)) for each in query[1:])
        all_keys, all_values, all_real = (
            jnp.concatenate([before, each], axis=-2 if each.ndim > 2 else -1)
            for before, each in zip(shared, (keys, values, real), strict=True)
        )
        seen = self._attend(rows[:, :, :1], all_keys, all_values, all_real)
        attended = jnp.concatenate([seen, own], axis=2)
        x = self._after(x, attended, layer, "self_attn", "norm1")
        first = jnp.broadcast_to(query.x, (pairs, *query.x.shape))
        return jnp.concatenate([first, x], axis=1), all_real

    def _attention(
        self,
        x: jax.Array,
        real: jax.Array,
        num_query: int,
        layer: Parameters,
        name: Literal["self_attn", "cross_attn"],
        norm: str,
    ) -> jax.Array:
        """An attention of a sequence, what it adds to it, and the norm behind that."""
        rows, keys, values = self._heads(x, layer, name)
        query, database = slice(0, num_query + 1), slice(num_query, None)
        if name == "cross_attn":
            query, database = database, query
        parts = (
            (slice(0, num_query), query),
            (slice(num_query, num_query + 1), slice(None)),
            (slice(num_query + 1, None), database),
        )
        attended = [
            self._attend(rows[:, :, own], keys[:, :, seen], values[:, :, seen], real[:, seen])
            for own, seen in parts
        ]
        return self._after(x, jnp.concatenate(attended, axis=2), layer, name, norm)

    def _heads(
        self, x: jax.Array, layer: Parameters, name: str
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Queries over the root of their length, keys and values, each [P, heads, L, 64]."""
        joined = self.products("pli,oi->plo", x, layer[f"{name}.in_proj_weight"])
        joined = joined + layer[f"{name}.in_proj_bias"]
        split = joined.reshape(*joined.shape[:2], 3, HEADS, _SIZE).transpose(2, 0, 3, 1, 4)
        return split[0] * _SIZE**-0.5, split[1], split[2]

    def _attend(
        self, rows: jax.Array, keys: jax.Array, values: jax.Array, real: jax.Array
    ) -> jax.Array:
        """[P, heads, R, 64] of rows [P, heads, R, 64] and keys [P, heads, S, 64], real [P, S]."""
        scores = self.products("phrc,phsc->phrs", rows, keys)
        scores = scores + jnp.where(real, 0.0, _OUT)[:, None, None, :]
        weights = jnp.exp(scores - scores.max(axis=-1, keepdims=True))
        total = weights.sum(axis=-1, keepdims=True)
        return self.products("phrs,phsc->phrc", weights, values) / total

    def _after(
        self, x: jax.Array, attended: jax.Array, layer: Parameters, name: str, norm: str
    ) -> jax.Array:
        joined = attended.swapaxes(1, 2).reshape(x.shape)
        return layer_norm(x + self.products.dense(joined, layer, f"{name}.out_proj"), layer, norm)

    def _mlp(self, x: jax.Array, layer: Parameters) -> jax.Array:
        hidden = jax.nn.relu(self.products.dense(x, layer, "linear1"))
        return layer_norm(x + self.products.dense(hidden, layer, "linear2"), layer, "norm3")

    def _last_cross(
        self, x: jax.Array, real: jax.Array, num_query: int, layer: Parameters
    ) -> jax.Array:
        """Cross attention of the match token [P, 128], and the norm behind it.

        q.(K x + b) is (K^T q).x and a number that all keys share, which the softmax does not see;
        the weights' sum of V x + b is V times that of x, and b.
        """
        name = "cross_attn"
        parts = layer[f"{name}.in_proj_weight"].reshape(3, HEADS, _SIZE, DIM)
        biases = layer[f"{name}.in_proj_bias"].reshape(3, HEADS, _SIZE)
        token = x[:, num_query]
        query = self.products("pi,hci->phc", token, parts[0]) + biases[0]
        folded = self.products("phc,hci->phi", query * _SIZE**-0.5, parts[1])
        attended = self._attend(folded[:, :, None], x[:, None], x[:, None], real)[:, :, 0]
        seen = self.products("phi,hci->phc", attended, parts[2]) + biases[2]
        return self._after(token[:, None], seen[:, :, None], layer, name, "norm2")[:, 0]


@dataclasses.dataclass(frozen=True, eq=False)
class Ames(LocalMethod):
    """AMES. The database's descriptors are rounded to float16, as the authors' code does."""

    usual: ClassVar[LocalSettings] = LocalSettings("dinov2_vitb14_reg", 770, 600, "area_linear")
    takes_detector_map: ClassVar[bool] = True
    projection: ClassVar[str] = "ames"

    remap: Remap

    @classmethod
    def create(cls, config: RerankConfig, mesh: jax.sharding.Mesh) -> "Ames":
        """One of the configuration's weights.

        Raises:
            UserError: they are not named, missing, damaged or of another network.
        """
        found = configured_weights(config, _EXAMPLE)
        remap = Remap.of(found)
        found = check_weights(found, shapes(remap), f"rerank.weights: {config.weights}")
        products = Products.configured(config)
        usual = _COMBINATIONS.get((remap.input_dim, remap.is_binary))
        return cls(
            PairScorer(AmesComparison(remap, products), arranged(found), mesh),
            remap.storage,
            remap.input_dim,
            {name: found[name] for name in remap.once},
            (usual or _COMBINATIONS[768, remap.is_binary]).configured(config),
            origin_of(config, products.dtype, REVISION),
            remap,
        )

    def project(self, parameters: Any, values: jax.Array) -> jax.Array:
        """What is kept of descriptors [..., D] float32, [..., 128] float32."""
        return self.remap.project(parameters, values)


def shapes(remap: Remap) -> dict[str, tuple[int, ...]]:
    """Of all tensors of a checkpoint."""
    found = {"mtc_token": (DIM,), **remap.shapes}
    for number in range(DEPTH):
        found |= {f"decoder.layers.{number}.{name}": each for name, each in _layer().items()}
    return {**found, "classifier.weight": (1, DIM), "classifier.bias": (1,)}


def _layer() -> dict[str, tuple[int, ...]]:
    layer: dict[str, tuple[int, ...]] = {}
    for name in ("self_attn", "cross_attn"):
        layer |= {f"{name}.in_proj_weight": (3 * DIM, DIM), f"{name}.in_proj_bias": (3 * DIM,)}
        layer |= {f"{name}.out_proj.weight": (DIM, DIM), f"{name}.out_proj.bias": (DIM,)}
    layer |= {"linear1.weight": (HIDDEN, DIM), "linear1.bias": (HIDDEN,)}
    layer |= {"linear2.weight": (DIM, HIDDEN), "linear2.bias": (DIM,)}
    for norm in ("norm1", "norm2", "norm3"):
        layer |= {f"{norm}.weight": (DIM,), f"{norm}.bias": (DIM,)}
    return layer


def arranged(found: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The tensors of a checkpoint as `AmesComparison` takes them.

    The first layer for its self attention, the last one for the rest; between them, stacked, the
    cross attention and MLP of every layer with the self attention of the next one.
    """
    layers = [
        {name: found[f"decoder.layers.{number}.{name}"] for name in _layer()}
        for number in range(DEPTH)
    ]
    early = ("self_attn", "norm1")
    steps = [
        {
            **{name: array for name, array in layer.items() if not name.startswith(early)},
            "next": {name: array for name, array in after.items() if name.startswith(early)},
        }
        for layer, after in zip(layers[:-1], layers[1:], strict=True)
    ]
    others = {name: array for name, array in found.items() if not name.startswith("decoder.")}
    middle = jax.tree.map(lambda *each: np.stack(each), *steps)
    return {**others, "first": layers[0], "middle": middle, "last": layers[-1]}
