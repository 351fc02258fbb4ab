"""CLIP's ResNet (Radford et al., 2021, section 2.4): averages before strides, attention at the end.

Layers have the names of OpenAI's code. The embedding is what the mean of the last maps attends to
among their values.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from ilias_jax.models.attention import Choice, attend
from ilias_jax.models.cnn.maps import CnnConfig, Conv, Maps, average_pool, normalized
from ilias_jax.models.layers import BatchNorm
from ilias_jax.models.positions import axis_weights


@dataclasses.dataclass(frozen=True)
class ClipResNetConfig(CnnConfig):
    """Architecture of an image tower.

    Attributes:
        depths: blocks of each stage.
        width: channels behind the stem; a stage has 4, 8, 16 and 32 times as many.
        dim: channels of the embedding.
        native_grid: side of the learned position grid.
        num_heads: of the attention.
    """

    depths: tuple[int, ...] = (3, 4, 6, 3)
    width: int = 64
    dim: int = 1024
    native_grid: int = 7
    num_heads: int = 32
    min_side: int = dataclasses.field(default=31, kw_only=True)

    @property
    def embedding_dim(self) -> int:
        """Channels D of an embedding."""
        return self.dim

    def tower(self, dtype: jnp.dtype, rngs: nnx.Rngs) -> "ClipResNet":
        """The module."""
        return ClipResNet(self, dtype, rngs)


class Bottleneck(nnx.Module):
    """Three convolutions of stride 1 around which the maps are added, averaged where they halve."""

    def __init__(
        self, inputs: int, width: int, stride: int, dtype: jnp.dtype, rngs: nnx.Rngs
    ) -> None:
        outputs = 4 * width
        self.conv1 = Conv(inputs, width, 1, dtype=dtype, rngs=rngs)
        self.bn1 = BatchNorm(width)
        self.conv2 = Conv(width, width, 3, 1, 1, dtype=dtype, rngs=rngs)
        self.bn2 = BatchNorm(width)
        self.conv3 = Conv(width, outputs, 1, dtype=dtype, rngs=rngs)
        self.bn3 = BatchNorm(outputs)
        self.projects = inputs != outputs or stride > 1
        if self.projects:
            conv = Conv(inputs, outputs, 1, dtype=dtype, rngs=rngs)
            self.downsample: Any = nnx.List([conv, BatchNorm(outputs)])
        self.stride = stride

    def __call__(self, maps: Maps) -> Maps:
        """Maps of `inputs` channels to maps of 4 `width`."""
        y = normalized(self.conv1(maps), self.bn1)
        y = self._averaged(normalized(self.conv2(y), self.bn2))
        y = normalized(self.conv3(y), self.bn3, None)
        if self.projects:
            conv, norm = self.downsample
            maps = normalized(conv(self._averaged(maps)), norm, None)
        return (maps + y).relu()

    def _averaged(self, maps: Maps) -> Maps:
        return average_pool(maps, self.stride, self.stride) if self.stride > 1 else maps


class AttentionPool(nnx.Module):
    """One query, the mean of the values, attends to itself and to all of them.

    Attributes:
        choice: as of `layers.Attention`.
    """

    def __init__(self, config: ClipResNetConfig, dtype: jnp.dtype, rngs: nnx.Rngs) -> None:
        width = 32 * config.width
        count = config.native_grid**2 + 1
        self.positional_embedding = nnx.Param(jnp.zeros((count, width), jnp.float32))
        self.q_proj = nnx.Linear(width, width, dtype=dtype, rngs=rngs)
        self.k_proj = nnx.Linear(width, width, dtype=dtype, rngs=rngs)
        self.v_proj = nnx.Linear(width, width, dtype=dtype, rngs=rngs)
        self.c_proj = nnx.Linear(width, config.dim, dtype=dtype, rngs=rngs)
        self.config = config
        self.choice: Choice = "auto"

    def __call__(self, maps: Maps) -> jax.Array:
        """[B, D] float32."""
        batch, _, _, width = maps.values.shape
        learned = self.positional_embedding[...]
        mean = (maps.mean() + learned[0])[:, None]
        values = maps.masked().astype(jnp.float32) + self.positions(maps)
        tokens = jnp.concatenate([mean, values.reshape(batch, -1, width)], axis=1)
        inside = jnp.concatenate(
            [jnp.ones((batch, 1), bool), maps.inside.reshape(batch, -1)], axis=1
        )
        heads = (batch, -1, self.config.num_heads, width // self.config.num_heads)
        query, key, value = (
            project(given).reshape(heads)
            for project, given in (
                (self.q_proj, mean),
                (self.k_proj, tokens),
                (self.v_proj, tokens),
            )
        )
        attended = attend(query, key, value, inside, self.choice)
        return self.c_proj(attended.reshape(batch, width)).astype(jnp.float32)

    def positions(self, maps: Maps) -> jax.Array:
        """[B, H, W, C] float32: the learned grid, resampled to each image's own map."""
        native, (height, width) = self.config.native_grid, maps.values.shape[1:3]
        table = jnp.asarray(axis_weights(native, max(height, width), "clamped"))
        rows, columns = table[maps.size[:, 0], :height], table[maps.size[:, 1], :width]
        grid = self.positional_embedding[1:].reshape(native, native, -1)
        highest = jax.lax.Precision.HIGHEST
        wide = jnp.einsum("bxk,gkc->bgxc", columns, grid, precision=highest)
        return jnp.einsum("byg,bgxc->byxc", rows, wide, precision=highest)


class ClipResNet(nnx.Module):
    """CLIP's ResNet; see `ClipResNetConfig`."""

    def __init__(self, config: ClipResNetConfig, dtype: jnp.dtype, rngs: nnx.Rngs) -> None:
        inputs, half = config.width, config.width // 2
        self.conv1 = Conv(3, half, 3, 2, 1, dtype=dtype, rngs=rngs)
        self.bn1 = BatchNorm(half)
        self.conv2 = Conv(half, half, 3, 1, 1, dtype=dtype, rngs=rngs)
        self.bn2 = BatchNorm(half)
        self.conv3 = Conv(half, inputs, 3, 1, 1, dtype=dtype, rngs=rngs)
        self.bn3 = BatchNorm(inputs)
        for number, depth in enumerate(config.depths):
            width, blocks = config.width << number, []
            for i in range(depth):
                stride = 2 if i == 0 and number else 1
                blocks.append(Bottleneck(inputs, width, stride, dtype, rngs))
                inputs = 4 * width
            setattr(self, f"layer{number + 1}", nnx.List(blocks))
        self.attnpool = AttentionPool(config, dtype, rngs)
        self.config = config

    def __call__(self, pixels: jax.Array, size: jax.Array, max_side: int) -> jax.Array:
        """[B, H, W, 3] of sizes [B, 2] -> [B, D] float32; see `ResNet.__call__`."""
        maps = normalized(self.conv1(Maps(pixels, size)), self.bn1)
        maps = normalized(self.conv2(maps), self.bn2)
        maps = average_pool(normalized(self.conv3(maps), self.bn3), 2, 2)
        for number in range(len(self.config.depths)):
            for block in getattr(self, f"layer{number + 1}"):
                maps = block(maps)
        return self.attnpool(maps)
