"""Position embeddings resampled to any grid, by the models' rules and without a compile per grid.

The reference resizes the learned grid on every forward pass, with half-pixel centres:

- "bicubic": antialiased, Keys' kernel with a = -0.5 (timm's `resample_abs_pos_embed`; DINOv2 with
  registers);
- "bilinear": antialiased (NaFlex models, in big_vision as in timm);
- "clamped": a = -0.75 without antialiasing, positions beyond the border taken from it (PyTorch's
  bicubic interpolation to a size; UNICOM);
- "offset": as "clamped" by a factor of (side + 0.1) / native side instead of to a size, but the
  native grid itself stays as it is (DINO, DINOv2 without registers, UNIC).

All are linear and separable, so a token in row r and column c of a grid takes a weighted sum of the
learned rows and columns. The weights of every possible grid side are tabulated once, and the device
looks them up by (side, position).
"""

import functools
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

PositionRule = Literal["bicubic", "bilinear", "clamped", "offset"]
_OFFSET = 0.1  # which DINO adds to a side against rounding errors of the interpolation


def _cubic(distance: np.ndarray, a: float = -0.5) -> np.ndarray:
    """Keys' cubic kernel (Keys, 1981, eq. 4) at absolute distances; a = -0.5 is his choice."""
    near = ((a + 2.0) * distance - (a + 3.0)) * distance**2 + 1.0
    far = ((a * distance - 5.0 * a) * distance + 8.0 * a) * distance - 4.0 * a
    return np.where(distance <= 1, near, np.where(distance < 2, far, 0.0))


def _linear(distance: np.ndarray) -> np.ndarray:
    """The triangle kernel at absolute distances."""
    return np.maximum(1.0 - distance, 0.0)


_KERNELS = {"bicubic": _cubic, "bilinear": _linear}


def side_weights(native: int, side: int, rule: PositionRule = "bicubic") -> np.ndarray:
    """Weights [side, native] float32 that resize one axis from `native` to `side` positions.

    The weights of every position sum to 1. With "bicubic" and "bilinear" the kernel is widened by
    the scale downwards.
    """
    if rule in ("clamped", "offset"):
        return _clamped_weights(native, side, _OFFSET if rule == "offset" else 0.0)
    if side == native:
        return np.eye(native, dtype=np.float32)
    scale = native / side
    center = (np.arange(side) + 0.5) * scale - 0.5
    distance = np.abs(center[:, None] - np.arange(native)[None, :]) / max(scale, 1.0)
    weights = _KERNELS[rule](distance)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def _clamped_weights(native: int, side: int, offset: float) -> np.ndarray:
    """Those of "clamped" and "offset": four neighbours each, the nearest one beyond the border."""
    center = (np.arange(side) + 0.5) * (native / (side + offset)) - 0.5
    weights = np.zeros((side, native), np.float64)
    for step in (-1, 0, 1, 2):
        neighbour = np.floor(center) + step
        index = np.clip(neighbour, 0, native - 1).astype(int)
        np.add.at(weights, (np.arange(side), index), _cubic(np.abs(center - neighbour), -0.75))
    return weights.astype(np.float32)


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
    if rule == "offset":
        is_native = (grid == native).all(axis=1)[:, None, None]
        by_row = jnp.where(is_native, jax.nn.one_hot(row, native), by_row)
        by_column = jnp.where(is_native, jax.nn.one_hot(column, native), by_column)
    weights = by_row[:, :, :, None] * by_column[:, :, None, :]  # [B, T, G, G]
    flat = weights.reshape(*weights.shape[:2], native * native)
    return jnp.matmul(
        flat, learned.reshape(native * native, width), precision=jax.lax.Precision.HIGHEST
    )
