"""EfficientNet (Tan and Le, 2019) and its Lite form, as TensorFlow pads them.

Layers have timm's names. A stage of inverted bottlenecks widens the maps, convolves each channel by
itself, weighs the channels (squeeze and excitation; Hu et al., 2018) and narrows them again.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from ilias_jax.models.cnn.maps import CnnConfig, Conv, Maps, normalized
from ilias_jax.models.layers import Activation, BatchNorm, activate

_EPSILON = 1e-3


@dataclasses.dataclass(frozen=True)
class Stage:
    """Blocks at one resolution.

    Attributes:
        depth: their number.
        outputs: channels.
        kernel: side of the convolution of each channel.
        stride: of the first block.
        widening: channels within a block over those that come in; 1 for a block that widens not.
    """

    depth: int
    outputs: int
    kernel: int
    stride: int
    widening: int = 6


@dataclasses.dataclass(frozen=True)
class EfficientNetConfig(CnnConfig):
    """Architecture of an image tower.

    Attributes:
        stem: channels of the first convolution.
        stages: what follows.
        head: channels of the last convolution, of 1 x 1.
        squeeze: whether blocks weigh their channels.
    """

    stem: int
    stages: tuple[Stage, ...]
    head: int
    squeeze: bool = True
    activation: Activation = dataclasses.field(default="silu", kw_only=True)

    @property
    def embedding_dim(self) -> int:
        """Channels D of an embedding."""
        return self.head

    def tower(self, dtype: jnp.dtype, rngs: nnx.Rngs) -> "EfficientNet":
        """The module."""
        return EfficientNet(self, dtype, rngs)


def _stages(*outputs: int, depths: tuple[int, ...]) -> tuple[Stage, ...]:
    kernels, strides = (3, 3, 5, 3, 5, 5, 3), (1, 2, 2, 2, 1, 2, 1)
    widenings = 1, 6, 6, 6, 6, 6, 6
    return tuple(map(Stage, depths, outputs, kernels, strides, widenings))


B4 = EfficientNetConfig(
    48, _stages(24, 32, 56, 112, 160, 272, 448, depths=(2, 4, 4, 6, 6, 8, 2)), 1792
)
LITE0 = EfficientNetConfig(
    *(32, _stages(16, 24, 40, 80, 112, 192, 320, depths=(1, 2, 2, 3, 3, 4, 1)), 1280),
    squeeze=False,
    activation="relu6",
)


class Squeeze(nnx.Module):
    """Weights of the channels, by two layers from the means of the maps."""

    def __init__(
        self,
        width: int,
        hidden: int,
        activation: Activation,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ) -> None:
        self.conv_reduce = Conv(width, hidden, 1, bias=True, dtype=dtype, rngs=rngs)
        self.conv_expand = Conv(hidden, width, 1, bias=True, dtype=dtype, rngs=rngs)
        self.activation = activation

    def __call__(self, maps: Maps) -> Maps:
        """The maps, each times its weight."""
        means = Maps(maps.mean()[:, None, None, :], jnp.ones_like(maps.size))
        hidden = self.conv_reduce(means).apply(lambda x: activate(x, self.activation))
        weights = jax.nn.sigmoid(self.conv_expand(hidden).values)
        return maps.apply(lambda x: x * weights.astype(x.dtype))


class Block(nnx.Module):
    """An inverted bottleneck, or one that does not widen, whose layers have other names."""

    def __init__(
        self,
        inputs: int,
        stage: Stage,
        stride: int,
        config: EfficientNetConfig,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ) -> None:
        width = inputs * stage.widening
        self.widens, self.activation = stage.widening > 1, config.activation
        self.adds = stride == 1 and inputs == stage.outputs
        norms = [BatchNorm(n, _EPSILON) for n in (width, width, stage.outputs)]
        last = Conv(width, stage.outputs, 1, dtype=dtype, rngs=rngs)
        if self.widens:
            self.conv_pw = Conv(inputs, width, 1, dtype=dtype, rngs=rngs)
            self.bn1, self.bn2, self.bn3 = norms
            self.conv_pwl = last
        else:
            self.bn1, self.bn2 = norms[1:]
            self.conv_pw = last
        self.conv_dw = Conv(
            *(width, width, stage.kernel, stride, "same"), groups=width, dtype=dtype, rngs=rngs
        )
        if config.squeeze:
            self.se = Squeeze(width, round(inputs / 4), config.activation, dtype, rngs)
        self.squeezes = config.squeeze

    def __call__(self, maps: Maps) -> Maps:
        """Maps of `inputs` channels to maps of `stage.outputs`."""
        y = normalized(self.conv_pw(maps), self.bn1, self.activation) if self.widens else maps
        middle, last = (self.bn2, self.bn3) if self.widens else (self.bn1, self.bn2)
        y = normalized(self.conv_dw(y), middle, self.activation)
        y = self.se(y) if self.squeezes else y
        y = normalized(self.conv_pwl(y) if self.widens else self.conv_pw(y), last, None)
        return maps + y if self.adds else y


class EfficientNet(nnx.Module):
    """An EfficientNet; see `EfficientNetConfig`."""

    def __init__(self, config: EfficientNetConfig, dtype: jnp.dtype, rngs: nnx.Rngs) -> None:
        inputs = config.stem
        self.conv_stem = Conv(3, inputs, 3, 2, "same", dtype=dtype, rngs=rngs)
        self.bn1 = BatchNorm(inputs, _EPSILON)
        stages = []
        for stage in config.stages:
            blocks = []
            for i in range(stage.depth):
                stride = 1 if i else stage.stride
                blocks.append(Block(inputs, stage, stride, config, dtype, rngs))
                inputs = stage.outputs
            stages.append(nnx.List(blocks))
        self.blocks = nnx.List(stages)
        self.conv_head = Conv(inputs, config.head, 1, dtype=dtype, rngs=rngs)
        self.bn2 = BatchNorm(config.head, _EPSILON)
        self.activation = config.activation

    def __call__(self, pixels: jax.Array, size: jax.Array, max_side: int) -> jax.Array:
        """[B, H, W, 3] of sizes [B, 2] -> [B, D] float32; see `ResNet.__call__`."""
        maps = normalized(self.conv_stem(Maps(pixels, size)), self.bn1, self.activation)
        for stage in self.blocks:
            for block in stage:
                maps = block(maps)
        return normalized(self.conv_head(maps), self.bn2, self.activation).mean()
