"""ConvNeXt (Liu et al., 2022), with the heads that CLIP's trainings put behind it.

Layers have timm's names. A block is a 7 x 7 convolution of each channel, a LayerNorm over the
channels and an MLP, which are added to what came in after a learned factor for each channel.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from ilias_jax.models.cnn.maps import CnnConfig, Conv, Maps
from ilias_jax.models.layers import Activation, BlockConfig, activate, layer_norm

_NORM = BlockConfig(norm_epsilon=1e-6)


@dataclasses.dataclass(frozen=True)
class ConvNextConfig(CnnConfig):
    """Architecture of an image tower.

    Attributes:
        depths: blocks of each stage.
        widths: channels of each stage.
        dim: channels of the embedding, made by a dense layer; 0 without one.
        hidden: whether another dense layer, as wide as the last stage, and the exact GELU precede
            it.
    """

    depths: tuple[int, ...] = (3, 3, 27, 3)
    widths: tuple[int, ...] = (128, 256, 512, 1024)
    dim: int = 0
    hidden: bool = False
    activation: Activation = dataclasses.field(default="gelu_exact", kw_only=True)
    min_side: int = dataclasses.field(default=32, kw_only=True)

    @property
    def embedding_dim(self) -> int:
        """Channels D of an embedding."""
        return self.dim or self.widths[-1]

    def tower(self, dtype: jnp.dtype, rngs: nnx.Rngs) -> "ConvNext":
        """The module."""
        return ConvNext(self, dtype, rngs)


class Mlp(nnx.Module):
    """Two dense layers around an activation."""

    def __init__(
        self, width: int, activation: Activation, dtype: jnp.dtype, rngs: nnx.Rngs
    ) -> None:
        self.fc1 = nnx.Linear(width, 4 * width, dtype=dtype, rngs=rngs)
        self.fc2 = nnx.Linear(4 * width, width, dtype=dtype, rngs=rngs)
        self.activation = activation

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [..., C] to [..., C]."""
        return self.fc2(activate(self.fc1(x), self.activation))


class Block(nnx.Module):
    """One block; see above."""

    def __init__(
        self, width: int, activation: Activation, dtype: jnp.dtype, rngs: nnx.Rngs
    ) -> None:
        self.conv_dw = Conv(width, width, 7, 1, 3, groups=width, bias=True, dtype=dtype, rngs=rngs)
        self.norm = layer_norm(width, _NORM, dtype, rngs)
        self.mlp = Mlp(width, activation, dtype, rngs)
        self.gamma = nnx.Param(jnp.full((width,), 1e-6, jnp.float32))

    def __call__(self, maps: Maps) -> Maps:
        """Maps of `width` channels to maps of as many."""
        y = self.conv_dw(maps).apply(lambda x: self.mlp(self.norm(x)))
        return maps + y.apply(lambda x: x * self.gamma[...].astype(x.dtype))


class Stage(nnx.Module):
    """Blocks at one resolution, behind a norm and a convolution that halve it."""

    def __init__(
        self,
        inputs: int,
        width: int,
        depth: int,
        activation: Activation,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ) -> None:
        self.halves = inputs > 0
        if self.halves:
            self.downsample = nnx.List(
                [
                    layer_norm(inputs, _NORM, dtype, rngs),
                    Conv(inputs, width, 2, 2, bias=True, dtype=dtype, rngs=rngs),
                ]
            )
        self.blocks = nnx.List([Block(width, activation, dtype, rngs) for _ in range(depth)])

    def __call__(self, maps: Maps) -> Maps:
        """Maps of `inputs` channels to maps of `width`."""
        if self.halves:
            norm, conv = self.downsample
            maps = conv(maps.apply(norm))
        for block in self.blocks:
            maps = block(maps)
        return maps


class Dense(nnx.Module):
    """A dense layer under the name that timm has for one of a head."""

    def __init__(self, width: int, dtype: jnp.dtype, rngs: nnx.Rngs) -> None:
        self.fc = nnx.Linear(width, width, dtype=dtype, rngs=rngs)


class Head(nnx.Module):
    """The mean of each map, normalised, and what follows."""

    def __init__(self, config: ConvNextConfig, dtype: jnp.dtype, rngs: nnx.Rngs) -> None:
        width = config.widths[-1]
        self.norm = layer_norm(width, _NORM, jnp.dtype("float32"), rngs)
        if config.hidden:
            self.pre_logits = Dense(width, dtype, rngs)
        if config.dim:
            self.fc = nnx.Linear(width, config.dim, dtype=dtype, rngs=rngs)
        self.config = config

    def __call__(self, maps: Maps) -> jax.Array:
        """[B, D] float32."""
        pooled = self.norm(maps.mean())
        if self.config.hidden:
            pooled = activate(self.pre_logits.fc(pooled), "gelu_exact")
        return (self.fc(pooled) if self.config.dim else pooled).astype(jnp.float32)


class ConvNext(nnx.Module):
    """A ConvNeXt; see `ConvNextConfig`."""

    def __init__(self, config: ConvNextConfig, dtype: jnp.dtype, rngs: nnx.Rngs) -> None:
        first = config.widths[0]
        self.stem = nnx.List(
            [
                Conv(3, first, 4, 4, bias=True, dtype=dtype, rngs=rngs),
                layer_norm(first, _NORM, dtype, rngs),
            ]
        )
        inputs, stages = 0, []
        for width, depth in zip(config.widths, config.depths, strict=True):
            stages.append(Stage(inputs, width, depth, config.activation, dtype, rngs))
            inputs = width
        self.stages = nnx.List(stages)
        self.head = Head(config, dtype, rngs)

    def __call__(self, pixels: jax.Array, size: jax.Array, max_side: int) -> jax.Array:
        """[B, H, W, 3] of sizes [B, 2] -> [B, D] float32; see `ResNet.__call__`."""
        conv, norm = self.stem
        maps = conv(Maps(pixels, size)).apply(norm)
        for stage in self.stages:
            maps = stage(maps)
        return self.head(maps)
