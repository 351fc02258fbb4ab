"""Rotary position embeddings of images (RoPE: Su et al., 2021), for a grid of any shape.

A head's channels make pairs, and a token turns each pair of its queries and keys by an angle. Half
of the pairs turn with the row, the other half with the column. Tokens before the patches do not
turn.

- "eva" (EVA02: Fang et al., 2023): angles fall geometrically from the position itself to its
  10,000th part; positions are counted in a reference grid, to which any other one is stretched;
- "pe" (Perception Encoder: Bolya et al., 2025): the same, columns first, counted from 1;
- "dinov3" (Siméoni et al., 2025): positions are patch centres between -1 and 1, and the periods
  are in the checkpoint.
"""

import dataclasses
import math
from typing import Literal

import jax
import jax.numpy as jnp

_BASE = 10_000.0


@dataclasses.dataclass(frozen=True)
class Rope:
    """Which rule.

    Attributes:
        form: see above.
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
    token = jnp.arange(num_tokens, dtype=jnp.int32)
    row, column = jnp.divmod(token[None, :], grid[:, 1:])  # [B, T] each
    position = jnp.stack([row, column], axis=2).astype(jnp.float32)
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
        bands = 1.0 / _BASE ** (jnp.arange(count, dtype=jnp.float32) / count)
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
