"""From the tokens of an image tower to one vector, beside taking the class token.

Padding is masked, so that an image's vector does not depend on the batch it came in.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ilias_jax.towers.layers import Attention, Mlp, Style, Width, layer_norm

_BATCH_NORM_EPSILON = 2e-5  # UNICOM's


class MapHead(nnx.Module):
    """Multihead attention pooling: a learned probe attends to all tokens (big_vision MAPHead)."""

    def __init__(self, size: Width, style: Style, dtype: jnp.dtype, rngs: nnx.Rngs) -> None:
        init = nnx.initializers.xavier_uniform()
        self.probe = nnx.Param(init(rngs.params(), (1, 1, size.width), jnp.float32))
        self.attention = Attention(size, style, dtype, rngs)
        self.norm = layer_norm(size.width, style, dtype, rngs)
        self.mlp = Mlp(size, style, dtype, rngs)

    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        """Pools tokens [B, T, D] to [B, D] float32; mask [B, T] is True for real tokens."""
        probe = jnp.broadcast_to(self.probe[...].astype(x.dtype), (x.shape[0], 1, x.shape[2]))
        pooled = self.attention(probe, x, mask)
        added = self.mlp(self.norm(pooled))
        return (pooled.astype(jnp.float32) + added.astype(jnp.float32))[:, 0]


def masked_mean(x: jax.Array, mask: jax.Array) -> jax.Array:
    """Mean of the real tokens of [B, T, D] as [B, D] float32; mask [B, T] is True for them."""
    real = mask[:, :, None]
    total = jnp.where(real, x.astype(jnp.float32), 0.0).sum(axis=1)
    return total / real.sum(axis=1)


class BatchNorm(nnx.Module):
    """Batch normalisation with the statistics of the training (Ioffe and Szegedy, 2015)."""

    def __init__(self, width: int) -> None:
        self.mean = nnx.Param(jnp.zeros((width,), jnp.float32))
        self.variance = nnx.Param(jnp.ones((width,), jnp.float32))
        self.scale = nnx.Param(jnp.ones((width,), jnp.float32))
        self.bias = nnx.Param(jnp.zeros((width,), jnp.float32))

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [..., D] to [..., D] float32."""
        centered = x.astype(jnp.float32) - self.mean[...]
        factor = jax.lax.rsqrt(self.variance[...] + _BATCH_NORM_EPSILON) * self.scale[...]
        return centered * factor + self.bias[...]


@functools.cache
def _average_weights(native: int, max_side: int) -> np.ndarray:
    """Weights of adaptive average pooling along one axis.

    Returns:
        [max_side + 1, native, max_side] float32; entry [n, i] averages those of n positions that
        fall into cell i, the cells overlapping where n is no multiple of `native`.
    """
    table = np.zeros((max_side + 1, native, max_side), np.float32)
    for side in range(1, max_side + 1):
        for cell in range(native):
            first, end = cell * side // native, -(-(cell + 1) * side // native)
            table[side, cell, first:end] = 1.0 / (end - first)
    return table


class FlattenHead(nnx.Module):
    """UNICOM's head (An et al., 2023): all tokens of the native grid side by side, two layers.

    Other grids are first averaged into the native one (adaptive average pooling).
    """

    def __init__(
        self, width: int, native_grid: int, output_dim: int, dtype: jnp.dtype, rngs: nnx.Rngs
    ) -> None:
        dense = functools.partial(nnx.Linear, use_bias=False, dtype=dtype, rngs=rngs)
        self.first = dense(native_grid**2 * width, width)
        self.norm1 = BatchNorm(width)
        self.second = dense(width, output_dim)
        self.norm2 = BatchNorm(output_dim)
        self.native_grid = native_grid

    def __call__(self, x: jax.Array, grid: jax.Array, max_side: int) -> jax.Array:
        """Pools tokens to one vector.

        Args:
            x: [B, T, D] in row-major order, padding last.
            grid: [B, 2] int32 rows and columns.
            max_side: largest side of any grid.

        Returns:
            [B, output_dim] float32.
        """
        table = jnp.asarray(_average_weights(self.native_grid, max_side))
        token = jnp.arange(x.shape[1], dtype=jnp.int32)
        row, column = jnp.divmod(token[None, :], grid[:, 1:])  # [B, T] each
        real = row < grid[:, :1]
        row = jnp.minimum(row, max_side - 1)
        by_row = jnp.take_along_axis(table[grid[:, 0]], row[:, None, :], axis=2)  # [B, G, T]
        by_column = jnp.take_along_axis(table[grid[:, 1]], column[:, None, :], axis=2)
        by_row = jnp.where(real[:, None, :], by_row, 0.0)
        weights = by_row[:, :, None, :] * by_column[:, None, :, :]
        weights = weights.reshape(x.shape[0], -1, x.shape[1])  # [B, G x G, T]
        # Padding may hold anything, also what zero does not make zero.
        tokens = jnp.where(real[:, :, None], x.astype(jnp.float32), 0.0)
        pooled = jnp.matmul(weights, tokens, precision=jax.lax.Precision.HIGHEST)
        flat = pooled.reshape(x.shape[0], -1).astype(x.dtype)
        return self.norm2(self.second(self.norm1(self.first(flat)).astype(x.dtype)))
