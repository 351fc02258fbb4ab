"""The vision transformer (Dosovitskiy et al., 2021) of all published families, by switches.

Any grid runs: patches come as a sequence with their grid, positions are resampled to it, and
padding is masked.
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx

from ilias_jax.towers.layers import Encoder, Style, Width, layer_norm
from ilias_jax.towers.pooling import FlattenHead, MapHead, masked_mean
from ilias_jax.towers.position import PositionRule, position_embedding
from ilias_jax.towers.rope import Rope, Rotation, rotation

_HEAD_EPSILON = 1e-5  # PyTorch's default, of RS@k and HIER
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
        size: of the transformer.
        patch_size: side of a square patch in pixels.
        native_grid: side of the learned position grid (training resolution / patch size).
        style: of the blocks.
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

    size: Width
    patch_size: int
    native_grid: int
    style: Style = Style()
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

    def __post_init__(self) -> None:
        """Raises ValueError if switches contradict each other."""
        if self.pool == "class" and not self.class_token:
            raise ValueError("pool='class' needs class_token")
        if self.pool == "flatten" and (self.head is None or self.num_prefix):
            raise ValueError("pool='flatten' needs a head, and takes patches alone")
        if self.position is None and self.rope is None:
            raise ValueError("without position and rope the patches would have no order")

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
    def map_size(self) -> Width:
        """Sizes of the MAP head."""
        return dataclasses.replace(self.size, num_heads=self.map_heads or self.size.num_heads)


class Projection(nnx.Module):
    """A dense layer, after a LayerNorm if the head has one."""

    def __init__(self, width: int, head: Head, dtype: jnp.dtype, rngs: nnx.Rngs) -> None:
        self.has_norm = head.norm != "none"
        if self.has_norm:
            affine = head.norm == "affine"
            self.norm = nnx.LayerNorm(
                width,
                epsilon=_HEAD_EPSILON,
                use_bias=affine,
                use_scale=affine,
                use_fast_variance=False,
                rngs=rngs,
            )
        self.dense = nnx.Linear(width, head.dim, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [B, D] to [B, head.dim]."""
        return self.dense(self.norm(x) if self.has_norm else x)


class ImageTower(nnx.Module):
    """A vision transformer; see `VitConfig`."""

    def __init__(self, config: VitConfig, dtype: jnp.dtype, rngs: nnx.Rngs) -> None:
        self.config = config
        size, style, side = config.size, config.style, config.native_grid
        normal = nnx.initializers.normal(size.width**-0.5)

        def learned(*shape: int) -> nnx.Param:
            return nnx.Param(normal(rngs.params(), shape, jnp.float32))

        self.embedding = nnx.Linear(
            config.patch_size**2 * 3,
            size.width,
            use_bias=config.patch_bias,
            dtype=dtype,
            rngs=rngs,
        )
        if config.class_token:
            self.class_token = learned(1, size.width)
        if config.has_class_position:
            self.class_position = learned(1, size.width)
        if config.num_registers:
            self.registers = learned(config.num_registers, size.width)
        if config.position is not None:
            self.position = learned(side, side, size.width)
        if config.rope is not None and config.rope.learned:
            self.periods = nnx.Param(jnp.ones((size.head_dim // 4,), jnp.float32))
        if config.pre_norm:
            self.pre_norm = layer_norm(size.width, style, dtype, rngs)
        self.encoder = Encoder(size, style, dtype, rngs)
        self.head: MapHead | FlattenHead
        if config.pool == "map":
            self.head = MapHead(config.map_size, style, dtype, rngs)
        if config.pool == "flatten":
            self.head = FlattenHead(size.width, side, config.embedding_dim, dtype, rngs)
        elif config.head is not None:
            self.projection = Projection(size.width, config.head, dtype, rngs)

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
        num_tokens, num_prefix = patches.shape[1], self.config.num_prefix
        length = grid[:, :1] * grid[:, 1:]
        real = jnp.arange(num_tokens)[None, :] < length
        mask = jnp.arange(num_prefix + num_tokens)[None, :] < num_prefix + length
        x = self.tokens(self.embedding(patches), grid, max_side)
        turn = self.rotation(grid, num_tokens)
        encoded = self.encoder.before_norm(x, mask, turn)
        pool = self.config.pool
        if pool == "mean":
            pooled = self.encoder.norm(masked_mean(encoded[:, num_prefix:], real))
        elif pool == "class":
            pooled = self.encoder.norm(encoded[:, 0])
        elif isinstance(self.head, MapHead):
            pooled = self.head(self.encoder.norm(encoded), mask)
        else:
            pooled = self.head(self.encoder.norm(encoded), grid, max_side)
        if pool != "flatten" and self.config.head is not None:
            pooled = self.projection(pooled)
        return pooled.astype(jnp.float32)

    def tokens(self, x: jax.Array, grid: jax.Array, max_side: int) -> jax.Array:
        """What enters the blocks: embedded patches [B, T, D] with positions, behind the prefix."""
        config, dtype = self.config, x.dtype
        x = x.astype(jnp.float32)
        if config.position is not None:
            learned, rule = self.position[...], config.position
            x = x + position_embedding(learned, grid, x.shape[1], max_side, rule)
        prefix = []
        if config.class_token:
            token = self.class_token[...]
            prefix.append(token + self.class_position[...] if config.has_class_position else token)
        if config.num_registers:
            prefix.append(self.registers[...])
        parts = [jnp.broadcast_to(part, (x.shape[0], *part.shape)) for part in prefix]
        x = jnp.concatenate([*parts, x], axis=1) if parts else x
        x = x.astype(dtype)
        return self.pre_norm(x) if config.pre_norm else x

    def rotation(self, grid: jax.Array, num_tokens: int) -> Rotation | None:
        """By how much each token turns in attention; None without RoPE."""
        config = self.config
        if config.rope is None:
            return None
        periods = self.periods[...] if config.rope.learned else None
        head_dim = config.size.head_dim
        return rotation(config.rope, grid, num_tokens, config.num_prefix, head_dim, periods)
