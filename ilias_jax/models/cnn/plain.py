"""Convolutions one after the other: AlexNet (Krizhevsky, 2014) and VGG (Simonyan et al., 2015).

Layers have the numbers of torchvision's `features`, where activations and pools have one too. The
embedding is the generalised mean (GeM) of the last maps.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from ilias_jax.models.cnn.maps import CnnConfig, Conv, Maps, gem, max_pool

_POWER, _LEAST = 3.0, 1e-6
Layer = tuple[int, int, int, int]  # number, outputs, kernel, stride of a convolution

# fmt: off
ALEXNET: tuple[Layer, ...] = (
    (0, 64, 11, 4), (3, 192, 5, 1), (6, 384, 3, 1), (8, 256, 3, 1), (10, 256, 3, 1),
)
VGG16: tuple[Layer, ...] = tuple(
    (number, outputs, 3, 1)
    for outputs, numbers in (
        (64, (0, 2)), (128, (5, 7)), (256, (10, 12, 14)), (512, (17, 19, 21, 24, 26, 28)),
    )
    for number in numbers
)
# fmt: on


@dataclasses.dataclass(frozen=True)
class PlainConfig(CnnConfig):
    """Architecture of an image tower.

    Attributes:
        layers: the convolutions, each padded to keep the map's size at stride 1, and behind ReLU.
            The first of AlexNet's is padded by 2 pixels.
        pools: numbers of the pools.
        pool_kernel: of the pools, whose stride is 2.
    """

    layers: tuple[Layer, ...]
    pools: tuple[int, ...]
    pool_kernel: int

    @property
    def embedding_dim(self) -> int:
        """Channels D of an embedding."""
        return self.layers[-1][1]

    def tower(self, dtype: jnp.dtype, rngs: nnx.Rngs) -> "Plain":
        """The module."""
        return Plain(self, dtype, rngs)


class Plain(nnx.Module):
    """A plain CNN; see `PlainConfig`."""

    def __init__(self, config: PlainConfig, dtype: jnp.dtype, rngs: nnx.Rngs) -> None:
        inputs, features = 3, {}
        for number, outputs, kernel, stride in config.layers:
            padding = 2 if stride > 1 else kernel // 2
            features[str(number)] = Conv(
                *(inputs, outputs, kernel, stride, padding), bias=True, dtype=dtype, rngs=rngs
            )
            inputs = outputs
        self.features = nnx.Dict(features)
        self.config = config

    def __call__(self, pixels: jax.Array, size: jax.Array, max_side: int) -> jax.Array:
        """[B, H, W, 3] of sizes [B, 2] -> [B, D] float32; see `ResNet.__call__`."""
        maps = Maps(pixels, size)
        for number in sorted([*self.config.pools, *(layer[0] for layer in self.config.layers)]):
            if number in self.config.pools:
                maps = max_pool(maps, self.config.pool_kernel, 2)
            else:
                maps = self.features[str(number)](maps).relu()
        return gem(maps, _POWER, _LEAST)
