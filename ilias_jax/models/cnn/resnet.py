"""ResNet with bottlenecks (He et al., 2016), and the heads of those trained for retrieval.

The stride is on the 3 x 3 convolution, as in torchvision, whose names the layers have. CVNet (Lee
et al., 2022) and SuperGlobal (Shao et al., 2023) are one network with two poolings; RS@k (Patel et
al., 2022) has one of its own.
"""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx

from ilias_jax.models.cnn.maps import CnnConfig, Conv, Maps, average_pool, gem, max_pool, normalized
from ilias_jax.models.layers import BatchNorm

_FLOOR = 0.014  # least activation of ReLUP
_REGION, _REGION_POWER = 5, 2.5
_POWER, _LEAST = 4.4, 1e-8
_UNIT_LEAST = 1e-12
Pool = Literal["mean", "gem", "regional"]


@dataclasses.dataclass(frozen=True)
class ResNetConfig(CnnConfig):
    """Architecture of an image tower.

    Attributes:
        depths: blocks of each stage.
        width: channels after the first convolution; a stage has 4, 8, 16 and 32 times as many.
        pool: "mean"; "gem" with a learned power; or SuperGlobal's: regional GeM, then GeM of a
            fixed power, normalised.
        dim: channels of the embedding, made by a dense layer; 0 without one.
        norm: whether a LayerNorm precedes it.
        floor: whether activations of the first three stages are at least 0.014 (ReLUP): all of the
            first one, later the sums alone.
        bgr: whether the channels are blue, green and red.
    """

    depths: tuple[int, int, int, int] = (3, 4, 6, 3)
    width: int = 64
    pool: Pool = "mean"
    dim: int = 0
    norm: bool = False
    floor: bool = False
    bgr: bool = False

    @property
    def channels(self) -> int:
        """Of the last maps."""
        return 32 * self.width

    @property
    def embedding_dim(self) -> int:
        """Channels D of an embedding."""
        return self.dim or self.channels

    def tower(self, dtype: jnp.dtype, rngs: nnx.Rngs) -> "ResNet":
        """The module."""
        return ResNet(self, dtype, rngs)


def floored(maps: Maps, norm: BatchNorm | None, least: float) -> Maps:
    """Batch norm, if there is one, and ReLU with this least value."""
    maps = maps if norm is None else normalized(maps, norm, None)
    return maps.apply(lambda x: jnp.maximum(x, jnp.asarray(least, x.dtype)))


class Bottleneck(nnx.Module):
    """Three convolutions around which the maps are added."""

    def __init__(
        self,
        inputs: int,
        width: int,
        stride: int,
        floors: tuple[float, float],
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ) -> None:
        outputs = 4 * width
        self.conv1 = Conv(inputs, width, 1, dtype=dtype, rngs=rngs)
        self.bn1 = BatchNorm(width)
        self.conv2 = Conv(width, width, 3, stride, 1, dtype=dtype, rngs=rngs)
        self.bn2 = BatchNorm(width)
        self.conv3 = Conv(width, outputs, 1, dtype=dtype, rngs=rngs)
        self.bn3 = BatchNorm(outputs)
        self.projects = inputs != outputs or stride != 1
        if self.projects:
            conv = Conv(inputs, outputs, 1, stride, dtype=dtype, rngs=rngs)
            self.downsample: Any = nnx.List([conv, BatchNorm(outputs)])
        self.floors = floors

    def __call__(self, maps: Maps) -> Maps:
        """Maps of `inputs` channels to maps of 4 `width`."""
        inner, last = self.floors
        y = floored(self.conv1(maps), self.bn1, inner)
        y = floored(self.conv2(y), self.bn2, inner)
        y = normalized(self.conv3(y), self.bn3, None)
        if self.projects:
            conv, norm = self.downsample
            maps = normalized(conv(maps), norm, None)
        return floored(maps + y, None, last)


class ResNet(nnx.Module):
    """A ResNet; see `ResNetConfig`."""

    def __init__(self, config: ResNetConfig, dtype: jnp.dtype, rngs: nnx.Rngs) -> None:
        self.config = config
        inputs = config.width
        self.conv1 = Conv(3, inputs, 7, 2, 3, dtype=dtype, rngs=rngs)
        self.bn1 = BatchNorm(inputs)
        for number, depth in enumerate(config.depths):
            width = config.width << number
            last = _FLOOR if config.floor and number < 3 else 0.0
            inner = _FLOOR if config.floor and number == 0 else 0.0
            blocks = []
            for i in range(depth):
                stride = 2 if i == 0 and number else 1
                blocks.append(Bottleneck(inputs, width, stride, (inner, last), dtype, rngs))
                inputs = 4 * width
            setattr(self, f"layer{number + 1}", nnx.List(blocks))
        if config.pool == "gem":
            self.power = nnx.Param(jnp.full((1,), 3.0, jnp.float32))
        if config.norm:
            self.layer_norm = nnx.LayerNorm(
                inputs, epsilon=1e-5, use_fast_variance=False, rngs=rngs
            )
        if config.dim:
            self.fc = nnx.Linear(inputs, config.dim, dtype=dtype, rngs=rngs)

    def __call__(self, pixels: jax.Array, size: jax.Array, max_side: int) -> jax.Array:
        """Embeds images.

        Args:
            pixels: [B, H, W, 3] normalised, each image in the top left corner.
            size: [B, 2] int32 their heights and widths.
            max_side: of any image.

        Returns:
            [B, D] float32, unnormalised.
        """
        if self.config.bgr:
            pixels = pixels[..., ::-1]
        maps = normalized(self.conv1(Maps(pixels, size)), self.bn1)
        maps = max_pool(maps, 3, 2, 1)
        for number in range(len(self.config.depths)):
            for block in getattr(self, f"layer{number + 1}"):
                maps = block(maps)
        pooled = self.pooled(maps)
        if self.config.norm:
            pooled = self.layer_norm(pooled)
        return (self.fc(pooled) if self.config.dim else pooled).astype(jnp.float32)

    def pooled(self, maps: Maps) -> jax.Array:
        """[B, C] float32."""
        maps = maps.apply(lambda x: x.astype(jnp.float32))
        if self.config.pool == "mean":
            return maps.mean()
        if self.config.pool == "gem":
            return gem(maps, self.power[...], 1e-6)
        pooled = gem(regional(maps), _POWER, _LEAST)
        norm = jnp.linalg.norm(pooled, axis=1, keepdims=True)
        return pooled / jnp.maximum(norm, _UNIT_LEAST)


def regional(maps: Maps) -> Maps:
    """SuperGlobal's regional GeM: the mean of a map and of its generalised means of 5 x 5 regions.

    Regions leave the map by reflection; one of fewer than 5 rows or columns stays as it is.
    """
    around = maps.apply(lambda x: x**_REGION_POWER)
    for axis in (0, 1):
        around = _reflected(around, axis, _REGION // 2)
    means = average_pool(around, _REGION, 1).values ** (1.0 / _REGION_POWER)
    is_large = (maps.size >= _REGION).all(axis=1)[:, None, None, None]
    return maps.apply(lambda x: jnp.where(is_large, 0.5 * (means + x), x))


def _reflected(maps: Maps, axis: int, count: int) -> Maps:
    """Maps with so many more rows (axis 0) or columns on either side, mirrored at the border."""
    length, size = maps.values.shape[axis + 1], maps.size[:, axis, None]
    place = jnp.abs(jnp.arange(-count, length + count, dtype=jnp.int32)[None])
    place = jnp.where(place < size, place, 2 * (size - 1) - place)
    place = jnp.clip(place, 0, length - 1)  # of what lies outside of a map, or of a small one
    shape = (len(place), -1, 1, 1) if axis == 0 else (len(place), 1, -1, 1)
    values = jnp.take_along_axis(maps.values, place.reshape(shape), axis=axis + 1)
    return Maps(values, maps.size.at[:, axis].add(2 * count))
