"""The vision transformer (Dosovitskiy et al., 2021) of all published families, by switches.

Any grid runs: patches come as a sequence with their grid, positions are resampled to it, and
padding is masked, so that an image's vector does not depend on the batch it came in.
"""

import dataclasses
import functools
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ilias_jax.models import positions
from ilias_jax.models.layers import (
    Activation,
    Attention,
    BatchNorm,
    BlockConfig,
    Encoder,
    Mlp,
    TransformerSize,
    layer_norm,
    residual,
)
from ilias_jax.models.positions import PositionRule, Rope, Rotation

_HEAD_EPSILON = 1e-5  # PyTorch's default, of RS@k and HIER
_BATCH_NORM_EPSILON = 2e-5  # UNICOM's
Pool = Literal["class", "mean", "map", "flatten"]


@dataclasses.dataclass(frozen=True)
class Head:
    """What follows the pooling.

    Attributes:
        dim: channels of the embedding, made by a dense layer.
        norm: a LayerNorm before that: none, one with scale and bias, or one without.
    """

    dim: int
    norm: Literal["none", "affine", "plain"] = "none"


@dataclasses.dataclass(frozen=True)
class VitConfig:
    """Architecture of an image tower.

    Attributes:
        whole, min_side: of the preprocessing, see there.
        size: of the transformer.
        patch_size: side of a square patch in pixels.
        native_grid: side of the learned position grid (training resolution / patch size).
        block: what the blocks are made of.
        patch_bias: whether the patch embedding has a bias.
        class_token: whether a learned token stands before the patches.
        num_registers: learned tokens between the class token and the patches (Darcet et al., 2024).
        position: how the learned position grid is resampled; None if there is none.
        class_position: whether the class token has a position embedding, too.
        pre_norm: whether a LayerNorm precedes the blocks.
        rope: rotary position embeddings; None for none.
        pool: how tokens become one vector: the class token; the mean of the patches, normalised
            after that instead of before; attention (MAP); or all of them in UNICOM's head.
        map_heads: attention heads of "map"; 0 for as many as the blocks have.
        head: what follows; None for nothing. "flatten" has a head of its own, of which this says
            the channels.
    """

    size: TransformerSize
    patch_size: int
    native_grid: int
    block: BlockConfig = BlockConfig()
    patch_bias: bool = True
    class_token: bool = True
    num_registers: int = 0
    position: PositionRule | None = "bicubic"
    class_position: bool = True
    pre_norm: bool = False
    rope: Rope | None = None
    pool: Pool = "class"
    map_heads: int = 0
    head: Head | None = None
    whole: ClassVar[bool] = False
    min_side: ClassVar[int] = 1

    @property
    def activation(self) -> Activation:
        """Of the MLPs."""
        return self.block.activation

    def with_activation(self, activation: Activation) -> "VitConfig":
        """The same with another one."""
        return dataclasses.replace(
            self, block=dataclasses.replace(self.block, activation=activation)
        )

    def tower(self, dtype: jnp.dtype, rngs: nnx.Rngs) -> "ImageTower":
        """The module."""
        return ImageTower(self, dtype, rngs)

    @property
    def num_prefix(self) -> int:
        """Tokens before the patches."""
        return self.class_token + self.num_registers

    @property
    def has_class_position(self) -> bool:
        """Whether there is a position embedding of the class token."""
        return self.class_token and self.class_position and self.position is not None

    @property
    def embedding_dim(self) -> int:
        """Channels D of an embedding."""
        return self.size.width if self.head is None else self.head.dim

    @property
    def map_size(self) -> TransformerSize:
        """Sizes of the MAP head."""
        return dataclasses.replace(self.size, num_heads=self.map_heads or self.size.num_heads)


class MapHead(nnx.Module):
    """Multihead attention pooling: a learned probe attends to all tokens (big_vision MAPHead)."""

    def __init__(
        self, size: TransformerSize, config: BlockConfig, dtype: jnp.dtype, rngs: nnx.Rngs
    ) -> None:
        init = nnx.initializers.xavier_uniform()
        self.probe = nnx.Param(init(rngs.params(), (1, 1, size.width), jnp.float32))
        self.attention = Attention(size, config, dtype, rngs)
        self.norm = layer_norm(size.width, config, dtype, rngs)
        self.mlp = Mlp(size, config, dtype, rngs)

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


@functools.cache
def _average_weights(native: int, max_side: int) -> np.ndarray:
    """Weights of adaptive average pooling along one axis, [max_side + 1, native, max_side] float32.

    Entry [n, i] averages those of n positions that fall into cell i, the cells overlapping where n
    is no multiple of `native`.
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
        self.norm1 = BatchNorm(width, _BATCH_NORM_EPSILON)
        self.second = dense(width, output_dim)
        self.norm2 = BatchNorm(output_dim, _BATCH_NORM_EPSILON)
        self.native_grid = native_grid

    def __call__(self, x: jax.Array, grid: jax.Array, max_side: int) -> jax.Array:
        """Pools tokens [B, T, D] in row-major order, padding last, to [B, output_dim] float32.

        `grid` is [B, 2] int32 rows and columns; `max_side` is the largest side of any grid.
        """
        table = jnp.asarray(_average_weights(self.native_grid, max_side))
        row, column = positions.rows_and_columns(grid, x.shape[1])
        real = row < grid[:, :1]
        row = jnp.minimum(row, max_side - 1)
        by_row = jnp.take_along_axis(table[grid[:, 0]], row[:, None, :], axis=2)  # [B, G, T]
        by_column = jnp.take_along_axis(table[grid[:, 1]], column[:, None, :], axis=2)
        by_row = jnp.where(real[:, None, :], by_row, 0.0)
        weights = by_row[:, :, None, :] * by_column[:, None, :, :]
        weights = weights.reshape(x.shape[0], -1, x.shape[1])  # [B, G x G, T]
        # Padding may be NaN, which a weight of zero does not make zero.
        tokens = jnp.where(real[:, :, None], x.astype(jnp.float32), 0.0)
        pooled = jnp.matmul(weights, tokens, precision=jax.lax.Precision.HIGHEST)
        flat = pooled.reshape(x.shape[0], -1).astype(x.dtype)
        return self.norm2(self.second(self.norm1(self.first(flat)).astype(x.dtype)))


class Projection(nnx.Module):
    """A dense layer, after a LayerNorm if the head has one."""

    def __init__(self, width: int, head: Head, dtype: jnp.dtype, rngs: nnx.Rngs) -> None:
        self.has_norm = head.norm != "none"
        if self.has_norm:
            affine = head.norm == "affine"
            norm = functools.partial(nnx.LayerNorm, epsilon=_HEAD_EPSILON, use_fast_variance=False)
            self.norm = norm(width, use_bias=affine, use_scale=affine, rngs=rngs)
        self.dense = nnx.Linear(width, head.dim, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [B, D] to [B, head.dim]."""
        return self.dense(self.norm(x) if self.has_norm else x)


class ImageTower(nnx.Module):
    """A vision transformer; see `VitConfig`."""

    def __init__(self, config: VitConfig, dtype: jnp.dtype, rngs: nnx.Rngs) -> None:
        self.config = config
        width, block, side = config.size.width, config.block, config.native_grid
        normal = nnx.initializers.normal(width**-0.5)

        def learned(*shape: int) -> nnx.Param:
            return nnx.Param(normal(rngs.params(), (*shape, width), jnp.float32))

        patch_dim = config.patch_size**2 * 3
        self.embedding = nnx.Linear(
            patch_dim, width, use_bias=config.patch_bias, dtype=dtype, rngs=rngs
        )
        if config.class_token:
            self.class_token = learned(1)
        if config.has_class_position:
            self.class_position = learned(1)
        if config.num_registers:
            self.registers = learned(config.num_registers)
        if config.position is not None:
            self.position = learned(side, side)
        if config.rope is not None and config.rope.learned:
            self.periods = nnx.Param(jnp.ones((config.size.head_dim // 4,), jnp.float32))
        if config.pre_norm:
            self.pre_norm = layer_norm(width, block, dtype, rngs)
        self.encoder = Encoder(config.size, block, dtype, rngs)
        self.head: MapHead | FlattenHead
        if config.pool == "map":
            self.head = MapHead(config.map_size, block, dtype, rngs)
        if config.pool == "flatten":
            self.head = FlattenHead(width, side, config.embedding_dim, dtype, rngs)
        elif config.head is not None:
            self.projection = Projection(width, config.head, dtype, rngs)

    def __call__(self, patches: jax.Array, grid: jax.Array, max_side: int) -> jax.Array:
        """Embeds a batch of images.

        Args:
            patches: [B, T, patch x patch x 3] normalised pixels in row-major token order; tokens
                beyond rows x columns are ignored.
            grid: [B, 2] int32 rows and columns of patches, rows x columns <= T.
            max_side: largest side of any grid, a Python integer.

        Returns:
            [B, D] float32, unnormalised.
        """
        encoded, mask = self.encoded(patches, grid, max_side)
        pool, num_prefix = self.config.pool, self.config.num_prefix
        if pool == "mean":
            patch_tokens = encoded[:, num_prefix:], mask[:, num_prefix:]
            pooled = self.encoder.norm(masked_mean(*patch_tokens))
        elif pool == "class":
            pooled = self.encoder.norm(encoded[:, 0])
        elif isinstance(self.head, MapHead):
            pooled = self.head(self.encoder.norm(encoded), mask)
        else:
            pooled = self.head(self.encoder.norm(encoded), grid, max_side)
        if pool != "flatten" and self.config.head is not None:
            pooled = self.projection(pooled)
        return pooled.astype(jnp.float32)

    def encoded(
        self, patches: jax.Array, grid: jax.Array, max_side: int
    ) -> tuple[jax.Array, jax.Array]:
        """What leaves the blocks, [B, prefix + T, D], and which are real, bool [B, prefix + T]."""
        num_tokens, num_prefix = patches.shape[1], self.config.num_prefix
        length = num_prefix + grid[:, :1] * grid[:, 1:]
        mask = jnp.arange(num_prefix + num_tokens)[None, :] < length
        x = self.tokens(self.embedding(patches), grid, max_side)
        return self.encoder.before_norm(x, mask, self.rotation(grid, num_tokens)), mask

    def patch_tokens(self, patches: jax.Array, grid: jax.Array, max_side: int) -> jax.Array:
        """The normalised tokens of the patches, [B, T, D] float32; see `__call__`.

        Tokens beyond rows x columns are ignored and may be anything. A norm that follows the mean
        normalises each of them here.
        """
        encoded, _ = self.encoded(patches, grid, max_side)
        return self.encoder.norm(encoded)[:, self.config.num_prefix :].astype(jnp.float32)

    def tokens(self, x: jax.Array, grid: jax.Array, max_side: int) -> jax.Array:
        """What enters the blocks: embedded patches [B, T, D] with positions, behind the prefix."""
        config, dtype = self.config, x.dtype
        x = x.astype(jnp.float32)
        if config.position is not None:
            learned, rule = self.position[...], config.position
            x = x + positions.position_embedding(learned, grid, x.shape[1], max_side, rule)
        prefix = []
        if config.class_token:
            token = self.class_token[...]
            prefix.append(token + self.class_position[...] if config.has_class_position else token)
        if config.num_registers:
            prefix.append(self.registers[...])
        parts = [jnp.broadcast_to(part, (x.shape[0], *part.shape)) for part in prefix]
        x = residual(jnp.concatenate([*parts, x], axis=1), dtype)
        return self.pre_norm(x) if config.pre_norm else x

    def rotation(self, grid: jax.Array, num_tokens: int) -> Rotation | None:
        """By how much each token turns in attention; None without RoPE."""
        config = self.config
        if config.rope is None:
            return None
        periods = self.periods[...] if config.rope.learned else None
        head_dim = config.size.head_dim
        return positions.rotation(
            config.rope, grid, num_tokens, config.num_prefix, head_dim, periods
        )
