"""Positions of image tokens, for a grid of any shape and without a compilation per grid.

**Learned position embeddings** are resampled from the native grid, with half-pixel centres:

- "bicubic": antialiased, Keys' kernel with a = -0.5 (timm's `resample_abs_pos_embed`; DINOv2 with
  registers);
- "bilinear": antialiased (NaFlex models, in big_vision as in timm);
- "clamped": a = -0.75 without antialiasing, positions beyond the border taken from it (PyTorch's
  bicubic interpolation to a size; UNICOM);
- "offset": as "clamped" by a factor of (side + 0.1) / native side instead of to a size, but the
  native grid itself stays as it is (DINO, DINOv2 without registers, UNIC).

All are linear and separable: a token in row r and column c takes a weighted sum of the learned rows
and columns. The weights of every grid side are tabulated once, and the device looks them up.

**Rotary position embeddings** (RoPE: Su et al., 2021) turn each pair of channels of a head's
queries and keys by an angle, half of the pairs with the row, the other half with the column. Tokens
before the patches do not turn.

- "eva" (EVA02: Fang et al., 2023): angles fall geometrically from the position itself to its
  10,000th part; positions are counted in a reference grid, to which any other one is stretched;
- "pe" (Perception Encoder: Bolya et al., 2025): the same, columns first, counted from 1;
- "dinov3" (Siméoni et al., 2025): positions are patch centres between -1 and 1, and the periods
  are in the checkpoint.
"""

import dataclasses
import functools
import math
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

PositionRule = Literal["bicubic", "bilinear", "clamped", "offset"]
_OFFSET = 0.1  # which DINO adds to a side against rounding errors of the interpolation
_ROPE_BASE = 10_000.0


def _cubic(distance: np.ndarray, a: float = -0.5) -> np.ndarray:
    """Keys' cubic kernel (Keys, 1981, eq. 4) at absolute distances; a = -0.5 is his choice."""
    near = ((a + 2.0) * distance - (a + 3.0)) * distance**2 + 1.0
    far = ((a * distance - 5.0 * a) * distance + 8.0 * a) * distance - 4.0 * a
    return np.where(distance <= 1, near, np.where(distance < 2, far, 0.0))


def side_weights(native: int, side: int, rule: PositionRule = "bicubic") -> np.ndarray:
    """Weights [side, native] float32 that resize one axis from `native` to `side` positions.

    The weights of every position sum to 1. With "bicubic" and "bilinear" the kernel is widened by
    the scale when the grid shrinks.
    """
    if rule in ("clamped", "offset"):
        return _clamped_weights(native, side, _OFFSET if rule == "offset" else 0.0)
    if side == native:
        return np.eye(native, dtype=np.float32)
    scale = native / side
    center = (np.arange(side) + 0.5) * scale - 0.5
    distance = np.abs(center[:, None] - np.arange(native)[None, :]) / max(scale, 1.0)
    weights = _cubic(distance) if rule == "bicubic" else np.maximum(1.0 - distance, 0.0)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def _clamped_weights(native: int, side: int, offset: float) -> np.ndarray:
    """As `side_weights` for "clamped" and "offset": four neighbours, clipped to the border."""
    center = (np.arange(side) + 0.5) * (native / (side + offset)) - 0.5
    weights = np.zeros((side, native), np.float64)
    for step in (-1, 0, 1, 2):
        neighbour = np.floor(center) + step
        index = np.clip(neighbour, 0, native - 1).astype(int)
        np.add.at(weights, (np.arange(side), index), _cubic(np.abs(center - neighbour), -0.75))
    return weights.astype(np.float32)


@functools.cache
def axis_weights(native: int, max_side: int, rule: PositionRule = "bicubic") -> np.ndarray:
    """Tabulated weights of one axis, [max_side + 1, max_side, native] float32.

    Entry [n, i] weighs the learned positions for position i of n; those with i >= n are zero.
    `native` is the side of the learned grid, `max_side` the largest that will be asked for.
    """
    table = np.zeros((max_side + 1, max_side, native), np.float32)
    for side in range(1, max_side + 1):
        table[side, :side] = side_weights(native, side, rule)
    return table


def rows_and_columns(grid: jax.Array, num_tokens: int) -> tuple[jax.Array, jax.Array]:
    """Row and column, [B, T] int32 each, of every token of grids [B, 2] in row-major order."""
    token = jnp.arange(num_tokens, dtype=jnp.int32)
    return jnp.divmod(token[None, :], grid[:, 1:])


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
    row, column = rows_and_columns(grid, num_tokens)
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


@dataclasses.dataclass(frozen=True)
class Rope:
    """A rule of rotary position embeddings.

    Attributes:
        form: see the module.
        reference: side of the grid in which positions are counted; "dinov3" has none.
    """

    form: Literal["eva", "pe", "dinov3"]
    reference: int = 0

    @property
    def learned(self) -> bool:
        """Whether the periods are parameters."""
        return self.form == "dinov3"


@dataclasses.dataclass(frozen=True)
class Rotation:
    """By how much each token turns.

    Attributes:
        cos: [B, T, 1, head size / 2] float32, of the angles.
        sin: [B, T, 1, head size / 2] float32, of the angles.
        interleaved: whether channels 2i and 2i + 1 are a pair, or i and i + head size / 2.
    """

    cos: jax.Array
    sin: jax.Array
    interleaved: bool


jax.tree_util.register_dataclass(Rotation, ["cos", "sin"], ["interleaved"])


def rotation(
    rope: Rope,
    grid: jax.Array,
    num_tokens: int,
    num_prefix: int,
    head_dim: int,
    periods: jax.Array | None = None,
) -> Rotation:
    """The rotation of a batch of images with different grids.

    Args:
        rope: the rule.
        grid: [B, 2] int32 rows and columns of each image.
        num_tokens: patches to which sequences are padded.
        num_prefix: tokens before the patches.
        head_dim: channels of a head, a multiple of 4.
        periods: [head_dim / 4] float32, of "dinov3".
    """
    position = jnp.stack(rows_and_columns(grid, num_tokens), axis=2).astype(jnp.float32)
    side = grid[:, None, :].astype(jnp.float32)
    if rope.form == "dinov3":
        assert periods is not None
        turns = 2.0 * (position + 0.5) / side - 1.0
        angle = 2.0 * math.pi * turns[..., None] / periods
    else:
        offset = 1.0 if rope.form == "pe" else 0.0
        counted = (position + offset) / side * rope.reference
        counted = counted[..., ::-1] if rope.form == "pe" else counted
        count = head_dim // 4
        bands = 1.0 / _ROPE_BASE ** (jnp.arange(count, dtype=jnp.float32) / count)
        angle = counted[..., None] * bands
    angle = angle.reshape(*angle.shape[:2], 1, head_dim // 2)
    angle = jnp.pad(angle, ((0, 0), (num_prefix, 0), (0, 0), (0, 0)))
    return Rotation(jnp.cos(angle), jnp.sin(angle), interleaved=rope.form != "dinov3")


def rotate(x: jax.Array, by: Rotation) -> jax.Array:
    """Turns the pairs of [B, T, heads, head size] in float32; the dtype stays."""
    half = x.shape[-1] // 2
    axis, shape = (-1, (half, 2)) if by.interleaved else (-2, (2, half))
    pairs = x.astype(jnp.float32).reshape(*x.shape[:-1], *shape)
    first, second = jnp.moveaxis(pairs, axis, 0)
    turned = first * by.cos - second * by.sin, second * by.cos + first * by.sin
    return jnp.stack(turned, axis=axis).reshape(x.shape).astype(x.dtype)
