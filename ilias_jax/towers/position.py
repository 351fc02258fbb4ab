"""Position embeddings resampled to any grid, by the models' rules and without a compile per grid.

timm's `resample_abs_pos_embed` resizes the learned grid by antialiased bicubic interpolation with
half-pixel centres on every forward pass; NaFlex models do the same bilinearly, in big_vision as in
timm. Both are linear and separable, so a token in row r and column c of a grid takes a weighted sum
of the learned rows and columns. The weights of every possible grid side are tabulated once, and the
device looks them up by (side, position).
"""

import functools
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

PositionRule = Literal["bicubic", "bilinear"]


def _cubic(distance: np.ndarray) -> np.ndarray:
    """Keys' cubic kernel with a = -0.5 (Keys, 1981, eq. 15) at absolute distances."""
    near = (1.5 * distance - 2.5) * distance**2 + 1.0
    far = ((-0.5 * distance + 2.5) * distance - 4.0) * distance + 2.0
    return np.where(distance <= 1, near, np.where(distance < 2, far, 0.0))


def _linear(distance: np.ndarray) -> np.ndarray:
    """The triangle kernel at absolute distances."""
    return np.maximum(1.0 - distance, 0.0)


_KERNELS = {"bicubic": _cubic, "bilinear": _linear}


def side_weights(native: int, side: int, rule: PositionRule = "bicubic") -> np.ndarray:
    """Weights [side, native] float32 that resize one axis from `native` to `side` positions.

    Antialiased with half-pixel centres: downwards the kernel is widened by the scale, and the
    weights of every position sum to 1.
    """
    if side == native:
        return np.eye(native, dtype=np.float32)
    scale = native / side
    center = (np.arange(side) + 0.5) * scale - 0.5
    distance = np.abs(center[:, None] - np.arange(native)[None, :]) / max(scale, 1.0)
    weights = _KERNELS[rule](distance)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


@functools.cache
def axis_weights(native: int, max_side: int, rule: PositionRule = "bicubic") -> np.ndarray:
    """Tabulated weights of one axis.

    Args:
        native: side of the learned grid.
        max_side: largest side that will be asked for.
        rule: of the interpolation.

    Returns:
        [max_side + 1, max_side, native] float32; entry [n, i] weighs the learned positions for
        position i of n. Entries with i >= n are zero.
    """
    table = np.zeros((max_side + 1, max_side, native), np.float32)
    for side in range(1, max_side + 1):
        table[side, :side] = side_weights(native, side, rule)
    return table


def position_embedding(
    learned: jax.Array,
    grid: jax.Array,
    num_tokens: int,
    max_side: int,
    rule: PositionRule = "bicubic",
) -> jax.Array:
    """Position embeddings of a batch of images with different grids.

    Args:
        learned: [G, G, D] float32 learned grid.
        grid: [B, 2] int32 rows and columns of each image, each in [1, max_side].
        num_tokens: T, the length to which token sequences are padded.
        max_side: largest side of any grid.
        rule: of the interpolation.

    Returns:
        [B, T, D] float32 in row-major token order; tokens beyond rows x columns are arbitrary but
        finite.
    """
    native, _, width = learned.shape
    table = jnp.asarray(axis_weights(native, max_side, rule))
    token = jnp.arange(num_tokens, dtype=jnp.int32)
    row, column = jnp.divmod(token[None, :], grid[:, 1:])  # [B, T] each
    by_row = table[grid[:, :1], jnp.minimum(row, max_side - 1)]  # [B, T, G]
    by_column = table[grid[:, 1:], column]  # [B, T, G]
    weights = by_row[:, :, :, None] * by_column[:, :, None, :]  # [B, T, G, G]
    flat = weights.reshape(*weights.shape[:2], native * native)
    return jnp.matmul(
        flat, learned.reshape(native * native, width), precision=jax.lax.Precision.HIGHEST
    )
