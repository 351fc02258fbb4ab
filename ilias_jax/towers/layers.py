"""Transformer layers shared by the towers, with the shapes of big_vision's parameters.

A block is pre-norm: `x + attention(norm1(x))`, then `x + mlp(norm2(x))`. The encoder keeps its
blocks as one block whose parameters have a leading depth axis and scans over it, so that a network
of 24 layers compiles like one of a single layer.
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx

from ilias_jax.towers.attention import Choice, attend

Activation = Literal["gelu_tanh", "gelu_exact"]
NORM_EPSILON = 1e-6  # flax's default, which big_vision uses throughout


@dataclasses.dataclass(frozen=True)
class Width:
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
        """Raises ValueError if the heads do not divide the width."""
        if self.width % self.num_heads:
            raise ValueError(f"num_heads={self.num_heads} does not divide width={self.width}")


def layer_norm(width: int, dtype: jnp.dtype, rngs: nnx.Rngs) -> nnx.LayerNorm:
    """LayerNorm over the last axis, computed in float32 with the two-pass variance."""
    return nnx.LayerNorm(
        width, epsilon=NORM_EPSILON, dtype=dtype, use_fast_variance=False, rngs=rngs
    )


class Attention(nnx.Module):
    """Multi-head dot-product attention with biases on all four projections.

    Attributes:
        choice: which implementation; `nnx.Module.set_attributes(choice=...)` sets it everywhere.
    """

    def __init__(self, size: Width, dtype: jnp.dtype, rngs: nnx.Rngs) -> None:
        heads = (size.num_heads, size.width // size.num_heads)
        init = nnx.initializers.xavier_uniform()

        def project() -> nnx.LinearGeneral:
            return nnx.LinearGeneral(size.width, heads, dtype=dtype, kernel_init=init, rngs=rngs)

        self.query, self.key, self.value = project(), project(), project()
        self.out = nnx.LinearGeneral(
            heads, size.width, axis=(-2, -1), dtype=dtype, kernel_init=init, rngs=rngs
        )
        self.choice: Choice = "auto"

    def __call__(self, x: jax.Array, context: jax.Array, mask: jax.Array | None) -> jax.Array:
        """Attends from x [B, T, D] to context [B, S, D]; mask [B, S] as `attend` takes it."""
        return self.out(
            attend(self.query(x), self.key(context), self.value(context), mask, self.choice)
        )


class Mlp(nnx.Module):
    """Two dense layers around a GELU."""

    def __init__(
        self, size: Width, activation: Activation, dtype: jnp.dtype, rngs: nnx.Rngs
    ) -> None:
        init = nnx.initializers.xavier_uniform()
        bias_init = nnx.initializers.normal(1e-6)
        self.up = nnx.Linear(
            size.width, size.mlp_dim, dtype=dtype, kernel_init=init, bias_init=bias_init, rngs=rngs
        )
        self.down = nnx.Linear(
            size.mlp_dim, size.width, dtype=dtype, kernel_init=init, bias_init=bias_init, rngs=rngs
        )
        self.approximate = activation == "gelu_tanh"

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [..., D] to [..., D]."""
        return self.down(jax.nn.gelu(self.up(x), approximate=self.approximate))


class Block(nnx.Module):
    """One pre-norm transformer block."""

    def __init__(
        self, size: Width, activation: Activation, dtype: jnp.dtype, rngs: nnx.Rngs
    ) -> None:
        self.norm1 = layer_norm(size.width, dtype, rngs)
        self.attention = Attention(size, dtype, rngs)
        self.norm2 = layer_norm(size.width, dtype, rngs)
        self.mlp = Mlp(size, activation, dtype, rngs)

    def __call__(self, x: jax.Array, mask: jax.Array | None) -> jax.Array:
        """Maps tokens [B, T, D] to [B, T, D]; mask [B, T] True for real ones, which come first."""
        y = self.norm1(x)
        x = x + self.attention(y, y, mask)
        return x + self.mlp(self.norm2(x))


class Encoder(nnx.Module):
    """`depth` blocks and a final norm."""

    def __init__(
        self, size: Width, activation: Activation, dtype: jnp.dtype, rngs: nnx.Rngs
    ) -> None:
        @nnx.split_rngs(splits=size.depth)
        @nnx.vmap(in_axes=0, out_axes=0)
        def stacked(rngs: nnx.Rngs) -> Block:
            return Block(size, activation, dtype, rngs)

        self.blocks = stacked(rngs)
        self.norm = layer_norm(size.width, dtype, rngs)

    def __call__(self, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        """Maps tokens [B, T, D] to [B, T, D]; mask [B, T] True for real ones, which come first."""

        @nnx.scan(in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
        def scan(x: jax.Array, block: Block) -> jax.Array:
            return block(x, mask)

        return self.norm(scan(x, self.blocks))
