"""DenseNet (Huang et al., 2017): each layer sees the maps of all before it in its block.

Layers have the names that torchvision and timm give them.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from ilias_jax.models.cnn.maps import (
    CnnConfig,
    Conv,
    Maps,
    average_pool,
    joined,
    max_pool,
    normalized,
)
from ilias_jax.models.layers import BatchNorm

_BOTTLENECK = 4  # channels between a layer's two convolutions, over those that it adds


@dataclasses.dataclass(frozen=True)
class DenseNetConfig(CnnConfig):
    """Architecture of an image tower.

    Attributes:
        depths: layers of each block.
        growth: channels that a layer adds; the first convolution gives twice as many.
    """

    depths: tuple[int, ...] = (6, 12, 32, 32)
    growth: int = 32
    min_side: int = dataclasses.field(default=29, kw_only=True)

    @property
    def embedding_dim(self) -> int:
        """Channels D of an embedding."""
        channels = 4 * self.growth  # halved before every block
        for depth in self.depths:
            channels = channels // 2 + depth * self.growth
        return channels

    def tower(self, dtype: jnp.dtype, rngs: nnx.Rngs) -> "DenseNet":
        """The module."""
        return DenseNet(self, dtype, rngs)


class DenseLayer(nnx.Module):
    """Two convolutions, each behind a norm and ReLU, whose maps go behind those that came in."""

    def __init__(self, inputs: int, growth: int, dtype: jnp.dtype, rngs: nnx.Rngs) -> None:
        width = _BOTTLENECK * growth
        self.norm1 = BatchNorm(inputs)
        self.conv1 = Conv(inputs, width, 1, dtype=dtype, rngs=rngs)
        self.norm2 = BatchNorm(width)
        self.conv2 = Conv(width, growth, 3, 1, 1, dtype=dtype, rngs=rngs)

    def __call__(self, maps: Maps) -> Maps:
        """Maps of `inputs` channels to maps of `growth` more."""
        y = self.conv1(normalized(maps, self.norm1))
        return joined(maps, self.conv2(normalized(y, self.norm2)))


class Transition(nnx.Module):
    """Half of the channels at half of the resolution."""

    def __init__(self, inputs: int, dtype: jnp.dtype, rngs: nnx.Rngs) -> None:
        self.norm = BatchNorm(inputs)
        self.conv = Conv(inputs, inputs // 2, 1, dtype=dtype, rngs=rngs)

    def __call__(self, maps: Maps) -> Maps:
        """Maps of `inputs` channels to maps of half as many."""
        return average_pool(self.conv(normalized(maps, self.norm)), 2, 2)


class Features(nnx.Module):
    """All but the pooling."""

    def __init__(self, config: DenseNetConfig, dtype: jnp.dtype, rngs: nnx.Rngs) -> None:
        channels = 2 * config.growth
        self.conv0 = Conv(3, channels, 7, 2, 3, dtype=dtype, rngs=rngs)
        self.norm0 = BatchNorm(channels)
        self.config = config
        for block, depth in enumerate(config.depths, 1):
            if block > 1:
                setattr(self, f"transition{block - 1}", Transition(channels, dtype, rngs))
                channels //= 2
            layers = {}
            for layer in range(1, depth + 1):
                layers[f"denselayer{layer}"] = DenseLayer(channels, config.growth, dtype, rngs)
                channels += config.growth
            setattr(self, f"denseblock{block}", nnx.Dict(layers))
        self.norm5 = BatchNorm(channels)

    def __call__(self, maps: Maps) -> Maps:
        """Maps of pixels to the last maps."""
        maps = max_pool(normalized(self.conv0(maps), self.norm0), 3, 2, 1)
        for block, depth in enumerate(self.config.depths, 1):
            if block > 1:
                maps = getattr(self, f"transition{block - 1}")(maps)
            layers = getattr(self, f"denseblock{block}")
            for layer in range(1, depth + 1):
                maps = layers[f"denselayer{layer}"](maps)
        return normalized(maps, self.norm5)


class DenseNet(nnx.Module):
    """A DenseNet; see `DenseNetConfig`."""

    def __init__(self, config: DenseNetConfig, dtype: jnp.dtype, rngs: nnx.Rngs) -> None:
        self.features = Features(config, dtype, rngs)

    def __call__(self, pixels: jax.Array, size: jax.Array, max_side: int) -> jax.Array:
        """[B, H, W, 3] of sizes [B, 2] -> [B, D] float32; see `ResNet.__call__`."""
        return self.features(Maps(pixels, size)).mean()
