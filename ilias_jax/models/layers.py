"""Layers of the image and text transformers.

A block is pre-norm: `x + attention(norm1(x))`, then `x + mlp(norm2(x))`. The encoder stacks the
parameters of its blocks along a leading depth axis and scans over it, so that a network of 24
blocks compiles like one of a single block.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx

from ilias_jax.models.attention import Choice, attend
from ilias_jax.models.positions import Rotation, rotate

Activation = Literal["gelu_tanh", "gelu_exact", "quick_gelu", "relu", "relu6", "silu"]

_FUNCTIONS: dict[Activation, Callable[[jax.Array], jax.Array]] = {
    "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True),
    "gelu_exact": functools.partial(jax.nn.gelu, approximate=False),
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),  # OpenAI's approximation in CLIP
    "relu": jax.nn.relu,
    "relu6": jax.nn.relu6,
    "silu": jax.nn.silu,
}


def activate(x: jax.Array, activation: Activation) -> jax.Array:
    """Applies an activation, which keeps shape and dtype."""
    return _FUNCTIONS[activation](x)


@dataclasses.dataclass(frozen=True)
class TransformerSize:
    """Sizes of a transformer.

    Attributes:
        width: channels of a token, D.
        depth: number of blocks.
        mlp_dim: hidden channels of the MLP.
        num_heads: attention heads; must divide `width`.
    """

    width: int
    depth: int
    mlp_dim: int
    num_heads: int

    def __post_init__(self) -> None:
        if self.width % self.num_heads:
            raise ValueError(f"num_heads={self.num_heads} does not divide width={self.width}")

    @property
    def head_dim(self) -> int:
        """Channels of a head."""
        return self.width // self.num_heads


@dataclasses.dataclass(frozen=True)
class BlockConfig:
    """What the blocks of a family are made of, apart from their sizes.

    Attributes:
        activation: of the MLP.
        norm_epsilon: of every LayerNorm; flax's default, which big_vision uses throughout.
        biases: of query, key and value: all, none, or all but the key's.
        attention_norm: whether a LayerNorm follows the attention, before its output layer.
        gated_mlp: whether the MLP is a SwiGLU (Shazeer, 2020) with a LayerNorm inside, as in EVA02:
            `activation(gate(x)) * up(x)`, normalised, then `down`.
        layer_scale: whether a learned factor for each channel scales what attention and MLP add
            (LayerScale: Touvron et al., 2021).
    """

    activation: Activation = "gelu_exact"
    norm_epsilon: float = 1e-6
    biases: Literal["all", "none", "no_key"] = "all"
    attention_norm: bool = False
    gated_mlp: bool = False
    layer_scale: bool = False


def layer_norm(width: int, config: BlockConfig, dtype: jnp.dtype, rngs: nnx.Rngs) -> nnx.LayerNorm:
    """LayerNorm over the last axis, computed in float32 with the two-pass variance.

    It takes and gives what blocks add to: flax would round a sum to float16 before its norm.
    """
    given = residual_dtype(dtype)
    return nnx.LayerNorm(
        width, epsilon=config.norm_epsilon, dtype=given, use_fast_variance=False, rngs=rngs
    )


class Attention(nnx.Module):
    """Multi-head dot-product attention.

    Attributes:
        choice: which implementation; `nnx.Module.set_attributes(choice=...)` sets it everywhere.
    """

    def __init__(
        self, size: TransformerSize, config: BlockConfig, dtype: jnp.dtype, rngs: nnx.Rngs
    ) -> None:
        heads = (size.num_heads, size.head_dim)
        init = nnx.initializers.xavier_uniform()

        def project(use_bias: bool) -> nnx.LinearGeneral:
            return nnx.LinearGeneral(
                size.width, heads, use_bias=use_bias, dtype=dtype, kernel_init=init, rngs=rngs
            )

        others = config.biases != "none"
        self.query, self.value = project(others), project(others)
        self.key = project(config.biases == "all")
        if config.attention_norm:
            self.norm = layer_norm(size.width, config, dtype, rngs)
        self.has_norm = config.attention_norm
        self.out = nnx.LinearGeneral(
            heads, size.width, axis=(-2, -1), dtype=dtype, kernel_init=init, rngs=rngs
        )
        self.choice: Choice = "auto"

    def __call__(
        self,
        x: jax.Array,
        context: jax.Array,
        mask: jax.Array | None,
        rotation: Rotation | None = None,
        causal: bool = False,
    ) -> jax.Array:
        """Attends from x [B, T, D] to context [B, S, D].

        Args:
            x: the queries.
            context: the keys and values.
            mask: [B, S] as `attend` takes it.
            rotation: by which queries and keys are turned; x and context are the same then.
            causal: whether a token attends to none after it.
        """
        query, key = self.query(x), self.key(context)
        if rotation is not None:
            query, key = rotate(query, rotation), rotate(key, rotation)
        attended = attend(query, key, self.value(context), mask, self.choice, causal=causal)
        if self.has_norm:
            joined = attended.reshape(*attended.shape[:2], -1)
            attended = self.norm(joined).reshape(attended.shape)
        return self.out(attended)


class Mlp(nnx.Module):
    """Two dense layers around an activation; a SwiGLU has a third, the gate, and a norm."""

    def __init__(
        self, size: TransformerSize, config: BlockConfig, dtype: jnp.dtype, rngs: nnx.Rngs
    ) -> None:
        dense = functools.partial(
            nnx.Linear,
            dtype=dtype,
            kernel_init=nnx.initializers.xavier_uniform(),
            bias_init=nnx.initializers.normal(1e-6),
            rngs=rngs,
        )
        self.up = dense(size.width, size.mlp_dim)
        if config.gated_mlp:
            self.gate = dense(size.width, size.mlp_dim)
            self.norm = layer_norm(size.mlp_dim, config, dtype, rngs)
        self.down = dense(size.mlp_dim, size.width)
        self.config = config

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [..., D] to [..., D]."""
        function = functools.partial(activate, activation=self.config.activation)
        if self.config.gated_mlp:
            return self.down(self.norm(function(self.gate(x)) * self.up(x)))
        return self.down(function(self.up(x)))


class BatchNorm(nnx.Module):
    """Batch normalisation with the statistics of the training (Ioffe and Szegedy, 2015)."""

    def __init__(self, width: int, epsilon: float = 1e-5) -> None:
        self.mean = nnx.Param(jnp.zeros((width,), jnp.float32))
        self.variance = nnx.Param(jnp.ones((width,), jnp.float32))
        self.scale = nnx.Param(jnp.ones((width,), jnp.float32))
        self.bias = nnx.Param(jnp.zeros((width,), jnp.float32))
        self.epsilon = epsilon

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [..., D] to [..., D] float32."""
        factor = jax.lax.rsqrt(self.variance[...] + self.epsilon) * self.scale[...]
        centered = x.astype(jnp.float32) - self.mean[...]
        return centered * factor + self.bias[...]


class LayerScale(nnx.Module):
    """A learned factor for each channel."""

    def __init__(self, width: int, rngs: nnx.Rngs) -> None:
        init = nnx.initializers.constant(1e-5)
        self.factor = nnx.Param(init(rngs.params(), (width,), jnp.float32))

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [..., D] to [..., D]."""
        x = residual(x, x.dtype)
        return x * self.factor[...].astype(x.dtype)


def residual_dtype(dtype: jax.typing.DTypeLike) -> jnp.dtype:
    """The dtype in which blocks add to tokens: that of the computation.

    For float16 it is float32, as in PyTorch's autocast: sums of large networks leave its range.
    """
    return jnp.dtype("float32") if jnp.dtype(dtype) == jnp.float16 else jnp.dtype(dtype)


def residual(x: jax.Array, dtype: jax.typing.DTypeLike) -> jax.Array:
    """Tokens [B, T, D] in the dtype in which blocks add to them; see `residual_dtype`."""
    return x.astype(residual_dtype(dtype))


class Block(nnx.Module):
    """One pre-norm transformer block."""

    def __init__(
        self, size: TransformerSize, config: BlockConfig, dtype: jnp.dtype, rngs: nnx.Rngs
    ) -> None:
        self.norm1 = layer_norm(size.width, config, dtype, rngs)
        self.attention = Attention(size, config, dtype, rngs)
        self.norm2 = layer_norm(size.width, config, dtype, rngs)
        self.mlp = Mlp(size, config, dtype, rngs)
        self.has_scale = config.layer_scale
        if self.has_scale:
            self.scale1, self.scale2 = LayerScale(size.width, rngs), LayerScale(size.width, rngs)

    def __call__(
        self,
        x: jax.Array,
        mask: jax.Array | None,
        rotation: Rotation | None = None,
        causal: bool = False,
    ) -> jax.Array:
        """Maps tokens [B, T, D] to [B, T, D]; mask [B, T] True for real ones, which come first."""
        y = self.norm1(x)
        y = self.attention(y, y, mask, rotation, causal)
        x = x + (self.scale1(y) if self.has_scale else y)
        y = self.mlp(self.norm2(x))
        return x + (self.scale2(y) if self.has_scale else y)


class Encoder(nnx.Module):
    """`depth` blocks and a final norm.

    Attributes:
        causal: whether a token attends to none after it.
    """

    def __init__(
        self,
        size: TransformerSize,
        config: BlockConfig,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
        causal: bool = False,
    ) -> None:
        @nnx.split_rngs(splits=size.depth)
        @nnx.vmap(in_axes=0, out_axes=0)
        def stacked(rngs: nnx.Rngs) -> Block:
            return Block(size, config, dtype, rngs)

        self.blocks = stacked(rngs)
        self.norm = layer_norm(size.width, config, dtype, rngs)
        self.causal = causal

    def before_norm(
        self, x: jax.Array, mask: jax.Array | None = None, rotation: Rotation | None = None
    ) -> jax.Array:
        """Maps tokens [B, T, D] to [B, T, D] by the blocks alone."""

        @nnx.scan(in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
        def scan(x: jax.Array, block: Block) -> jax.Array:
            return block(x, mask, rotation, self.causal)

        return scan(residual(x, x.dtype), self.blocks)

    def __call__(
        self, x: jax.Array, mask: jax.Array | None = None, rotation: Rotation | None = None
    ) -> jax.Array:
        """Maps tokens [B, T, D] to [B, T, D]; mask [B, T] True for real ones, which come first."""
        return self.norm(self.before_norm(x, mask, rotation))
