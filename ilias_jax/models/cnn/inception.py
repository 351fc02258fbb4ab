"""Inception v4 (Szegedy et al., 2017): branches side by side, joined along the channels.

Layers have timm's names. Strides come without padding, so that the last rows of a map may go.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from flax import nnx

from ilias_jax.models.cnn.maps import (
    CnnConfig,
    ConvNorm,
    Maps,
    Padding,
    average_pool,
    joined,
    max_pool,
)

_EPSILON = 1e-3


@dataclasses.dataclass(frozen=True)
class _Layer:
    """A convolution with its norm and ReLU."""

    outputs: int
    kernel: int | tuple[int, int] = 1
    stride: int = 1
    padding: Padding = 0


def _kept(outputs: int, height: int, width: int) -> _Layer:
    """One that keeps the size of the map."""
    return _Layer(outputs, (height, width), padding=(height // 2, width // 2))


# Names of branches -> their layers; a name alone is a pool.
_Branches = Mapping[str, tuple[_Layer | str, ...]]
_MAX, _AVERAGE = "max", "average"
# fmt: off
_MIXED_3A: _Branches = {"maxpool": (_MAX,), "conv": (_Layer(96, 3, 2),)}
_MIXED_4A: _Branches = {
    "branch0": (_Layer(64), _Layer(96, 3)),
    "branch1": (_Layer(64), _kept(64, 1, 7), _kept(64, 7, 1), _Layer(96, 3)),
}
_MIXED_5A: _Branches = {"conv": (_Layer(192, 3, 2),), "maxpool": (_MAX,)}
_A: _Branches = {
    "branch0": (_Layer(96),),
    "branch1": (_Layer(64), _kept(96, 3, 3)),
    "branch2": (_Layer(64), _kept(96, 3, 3), _kept(96, 3, 3)),
    "branch3": (_AVERAGE, _Layer(96)),
}
_REDUCTION_A: _Branches = {
    "branch0": (_Layer(384, 3, 2),),
    "branch1": (_Layer(192), _kept(224, 3, 3), _Layer(256, 3, 2)),
    "branch2": (_MAX,),
}
_B: _Branches = {
    "branch0": (_Layer(384),),
    "branch1": (_Layer(192), _kept(224, 1, 7), _kept(256, 7, 1)),
    "branch2": (
        _Layer(192), _kept(192, 7, 1), _kept(224, 1, 7), _kept(224, 7, 1), _kept(256, 1, 7),
    ),
    "branch3": (_AVERAGE, _Layer(128)),
}
_REDUCTION_B: _Branches = {
    "branch0": (_Layer(192), _Layer(192, 3, 2)),
    "branch1": (_Layer(256), _kept(256, 1, 7), _kept(320, 7, 1), _Layer(320, 3, 2)),
    "branch2": (_MAX,),
}
# fmt: on


@dataclasses.dataclass(frozen=True)
class InceptionConfig(CnnConfig):
    """Architecture of an image tower.

    Attributes:
        depths: how many of the blocks A, B and C there are.
    """

    depths: tuple[int, int, int] = (4, 7, 3)
    min_side: int = dataclasses.field(default=75, kw_only=True)

    @property
    def embedding_dim(self) -> int:
        """Channels D of an embedding."""
        return 1536

    def tower(self, dtype: jnp.dtype, rngs: nnx.Rngs) -> "Inception":
        """The module."""
        return Inception(self, dtype, rngs)


class MaxPool(nnx.Module):
    """The largest of 3 x 3 values, at stride 2."""

    def __call__(self, maps: Maps) -> Maps:
        """Maps of half the size."""
        return max_pool(maps, 3, 2)


class AveragePool(nnx.Module):
    """The mean of 3 x 3 values, at the border of those that there are."""

    def __call__(self, maps: Maps) -> Maps:
        """Maps of the same size."""
        return average_pool(maps, 3, 1, 1, count_padding=False)


Build = Callable[[int, _Layer], ConvNorm]  # (inputs, layer)


class Mixed(nnx.Module):
    """Branches of which each sees what comes in."""

    def __init__(self, inputs: int, branches: _Branches, build: Build) -> None:
        self.names = tuple(branches)
        for name, layers in branches.items():
            parts: list[nnx.Module] = []
            channels = inputs
            for layer in layers:
                if isinstance(layer, _Layer):
                    parts.append(build(channels, layer))
                    channels = layer.outputs
                else:
                    parts.append(MaxPool() if layer == _MAX else AveragePool())
            setattr(self, name, parts[0] if len(parts) == 1 else nnx.List(parts))

    def __call__(self, maps: Maps) -> Maps:
        """Maps of `inputs` channels to those of all branches."""
        found = []
        for name in self.names:
            branch, out = getattr(self, name), maps
            for part in branch if isinstance(branch, nnx.List) else [branch]:
                out = part(out)
            found.append(out)
        return joined(*found)


class InceptionC(nnx.Module):
    """The last kind of block, of which two branches fork once more."""

    def __init__(self, inputs: int, build: Build) -> None:
        self.branch0 = build(inputs, _Layer(256))
        self.branch1_0 = build(inputs, _Layer(384))
        self.branch1_1a = build(384, _kept(256, 1, 3))
        self.branch1_1b = build(384, _kept(256, 3, 1))
        self.branch2_0 = build(inputs, _Layer(384))
        self.branch2_1 = build(384, _kept(448, 3, 1))
        self.branch2_2 = build(448, _kept(512, 1, 3))
        self.branch2_3a = build(512, _kept(256, 1, 3))
        self.branch2_3b = build(512, _kept(256, 3, 1))
        self.branch3 = nnx.List([AveragePool(), build(inputs, _Layer(256))])

    def __call__(self, maps: Maps) -> Maps:
        """Maps of `inputs` channels to maps of 1,536."""
        first = self.branch1_0(maps)
        second = self.branch2_2(self.branch2_1(self.branch2_0(maps)))
        pool, last = self.branch3
        return joined(
            self.branch0(maps),
            *(self.branch1_1a(first), self.branch1_1b(first)),
            *(self.branch2_3a(second), self.branch2_3b(second)),
            last(pool(maps)),
        )


class Inception(nnx.Module):
    """An Inception v4; see `InceptionConfig`."""

    def __init__(self, config: InceptionConfig, dtype: jnp.dtype, rngs: nnx.Rngs) -> None:
        def build(inputs: int, layer: _Layer) -> ConvNorm:
            given = inputs, layer.outputs, layer.kernel, layer.stride, layer.padding
            return ConvNorm(*given, epsilon=_EPSILON, dtype=dtype, rngs=rngs)

        mixed = functools.partial(Mixed, build=build)
        num_a, num_b, num_c = config.depths
        self.features = nnx.List(
            [
                build(3, _Layer(32, 3, 2)),
                build(32, _Layer(32, 3)),
                build(32, _kept(64, 3, 3)),
                *(mixed(64, _MIXED_3A), mixed(160, _MIXED_4A), mixed(192, _MIXED_5A)),
                *(mixed(384, _A) for _ in range(num_a)),
                mixed(384, _REDUCTION_A),
                *(mixed(1024, _B) for _ in range(num_b)),
                mixed(1024, _REDUCTION_B),
                *(InceptionC(1536, build) for _ in range(num_c)),
            ]
        )

    def __call__(self, pixels: jax.Array, size: jax.Array, max_side: int) -> jax.Array:
        """[B, H, W, 3] of sizes [B, 2] -> [B, D] float32; see `ResNet.__call__`."""
        maps = Maps(pixels, size)
        for part in self.features:
            maps = part(maps)
        return maps.mean()
