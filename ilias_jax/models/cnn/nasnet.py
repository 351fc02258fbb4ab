"""NASNet-A (Zoph et al., 2018), as TensorFlow pads it.

Layers have timm's names. A cell sees the two cells before it and adds pairs of what it makes of
them; those that halve the maps are all of one kind, and those that keep their size of another.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from ilias_jax.models.cnn.maps import (
    CnnConfig,
    Conv,
    ConvNorm,
    Maps,
    average_pool,
    joined,
    max_pool,
    normalized,
)
from ilias_jax.models.layers import BatchNorm

_EPSILON = 1e-3
_GROUP = 6  # numbers of cells between two that halve the maps


@dataclasses.dataclass(frozen=True)
class NasNetConfig(CnnConfig):
    """Architecture of an image tower.

    Attributes:
        width: channels of a layer of the first cells; a cell joins six.
        stem: channels of the first convolution.
        cells: of each group, at most 6.
        groups: of cells, of which each but the first has maps of half the size.
    """

    width: int = 168
    stem: int = 96
    cells: int = _GROUP
    groups: int = 3
    min_side: int = dataclasses.field(default=3, kw_only=True)

    @property
    def embedding_dim(self) -> int:
        """Channels D of an embedding."""
        return 6 * self.width << (self.groups - 1)

    def tower(self, dtype: jnp.dtype, rngs: nnx.Rngs) -> "NasNet":
        """The module."""
        return NasNet(self, dtype, rngs)


class Pointwise(nnx.Module):
    """ReLU, a convolution of 1 x 1 and a norm."""

    def __init__(self, inputs: int, outputs: int, dtype: jnp.dtype, rngs: nnx.Rngs) -> None:
        self.conv = Conv(inputs, outputs, 1, dtype=dtype, rngs=rngs)
        self.bn = BatchNorm(outputs, _EPSILON)

    def __call__(self, maps: Maps) -> Maps:
        """Maps of `inputs` channels to maps of `outputs`."""
        return normalized(self.conv(maps.relu()), self.bn, None)


class Separable(nnx.Module):
    """A convolution of each channel by itself, then one of 1 x 1."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        stride: int,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ) -> None:
        self.depthwise_conv2d = Conv(
            *(inputs, inputs, kernel, stride, "same"), groups=inputs, dtype=dtype, rngs=rngs
        )
        self.pointwise_conv2d = Conv(inputs, outputs, 1, dtype=dtype, rngs=rngs)

    def __call__(self, maps: Maps) -> Maps:
        """Maps of `inputs` channels to maps of `outputs`."""
        return self.pointwise_conv2d(self.depthwise_conv2d(maps))


class Separables(nnx.Module):
    """Twice ReLU, a separable convolution and a norm; the first has the stride."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        stride: int,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ) -> None:
        self.separable_1 = Separable(inputs, outputs, kernel, stride, dtype, rngs)
        self.bn_sep_1 = BatchNorm(outputs, _EPSILON)
        self.separable_2 = Separable(outputs, outputs, kernel, 1, dtype, rngs)
        self.bn_sep_2 = BatchNorm(outputs, _EPSILON)

    def __call__(self, maps: Maps) -> Maps:
        """Maps of `inputs` channels to maps of `outputs`."""
        y = normalized(self.separable_1(maps.relu()), self.bn_sep_1)
        return normalized(self.separable_2(y), self.bn_sep_2, None)


class Half(nnx.Module):
    """A convolution of every second value of a map."""

    def __init__(self, inputs: int, outputs: int, dtype: jnp.dtype, rngs: nnx.Rngs) -> None:
        self.conv = Conv(inputs, outputs, 1, 2, dtype=dtype, rngs=rngs)


class Halves(nnx.Module):
    """Maps at half of their size: values of even rows and columns beside those of odd ones."""

    def _build(self, inputs: int, outputs: int, dtype: jnp.dtype, rngs: nnx.Rngs) -> None:
        self.path_1 = Half(inputs, outputs, dtype, rngs)
        self.path_2 = Half(inputs, outputs, dtype, rngs)
        self.final_path_bn = BatchNorm(2 * outputs, _EPSILON)

    def halved(self, maps: Maps) -> Maps:
        """Maps of `inputs` channels to maps of twice `outputs`."""
        maps = maps.relu()
        # Behind the last odd row or column of a map is a zero.
        shifted = jnp.pad(maps.masked(), ((0, 0), (0, 1), (0, 1), (0, 0)))[:, 1:, 1:]
        paths = self.path_1.conv(maps), self.path_2.conv(Maps(shifted, maps.size))
        return normalized(joined(*paths), self.final_path_bn, None)


def _average(maps: Maps) -> Maps:
    return average_pool(maps, 3, 1, 1, count_padding=False)


class Reducing(nnx.Module):
    """What all cells that halve the maps do with the two that they see."""

    def _build_pairs(
        self, one: int, other: int, width: int, dtype: jnp.dtype, rngs: nnx.Rngs
    ) -> None:
        self.comb_iter_0_left = Separables(one, width, 5, 2, dtype, rngs)
        self.comb_iter_0_right = Separables(other, width, 7, 2, dtype, rngs)
        self.comb_iter_1_right = Separables(other, width, 7, 2, dtype, rngs)
        self.comb_iter_2_right = Separables(other, width, 5, 2, dtype, rngs)
        self.comb_iter_4_left = Separables(width, width, 3, 1, dtype, rngs)

    def pairs(self, one: Maps, other: Maps) -> Maps:
        """Maps of four times the width."""
        zero = self.comb_iter_0_left(one) + self.comb_iter_0_right(other)
        largest = max_pool(one, 3, 2, "same")
        first = largest + self.comb_iter_1_right(other)
        # At the border of a map this one does count its padding.
        second = average_pool(one, 3, 2, "same") + self.comb_iter_2_right(other)
        third = _average(zero) + first
        fourth = self.comb_iter_4_left(zero) + largest
        return joined(first, second, third, fourth)


class StemCell0(Reducing):
    """The first cell, which sees the first convolution alone."""

    def __init__(self, stem: int, width: int, dtype: jnp.dtype, rngs: nnx.Rngs) -> None:
        self.conv_1x1 = Pointwise(stem, width, dtype, rngs)
        self._build_pairs(width, stem, width, dtype, rngs)

    def __call__(self, maps: Maps) -> Maps:
        """Maps of `stem` channels to maps of 4 `width`."""
        return self.pairs(self.conv_1x1(maps), maps)


class StemCell1(Reducing, Halves):
    """The second cell, which sees the first convolution and the first cell."""

    def __init__(self, stem: int, width: int, dtype: jnp.dtype, rngs: nnx.Rngs) -> None:
        self.conv_1x1 = Pointwise(2 * width, width, dtype, rngs)
        self._build(stem, width // 2, dtype, rngs)
        self._build_pairs(width, width, width, dtype, rngs)

    def __call__(self, maps: Maps, before: Maps) -> Maps:
        """Maps of 4 `width` channels."""
        return self.pairs(self.conv_1x1(maps), self.halved(before))


class ReductionCell(Reducing):
    """A cell that halves the maps."""

    def __init__(self, inputs: int, width: int, dtype: jnp.dtype, rngs: nnx.Rngs) -> None:
        self.conv_prev_1x1 = Pointwise(inputs, width, dtype, rngs)
        self.conv_1x1 = Pointwise(inputs, width, dtype, rngs)
        self._build_pairs(width, width, width, dtype, rngs)

    def __call__(self, maps: Maps, before: Maps) -> Maps:
        """Maps of 4 `width` channels."""
        return self.pairs(self.conv_1x1(maps), self.conv_prev_1x1(before))


class Cell(Halves):
    """A cell that keeps the size of the maps; one before which it was halved halves the older."""

    def __init__(
        self,
        inputs: int,
        before: int,
        width: int,
        halves: bool,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ) -> None:
        self.halves = halves
        if halves:
            self._build(before, width // 2, dtype, rngs)
        else:
            self.conv_prev_1x1 = Pointwise(before, width, dtype, rngs)
        self.conv_1x1 = Pointwise(inputs, width, dtype, rngs)
        self.comb_iter_0_left = Separables(width, width, 5, 1, dtype, rngs)
        self.comb_iter_0_right = Separables(width, width, 3, 1, dtype, rngs)
        self.comb_iter_1_left = Separables(width, width, 5, 1, dtype, rngs)
        self.comb_iter_1_right = Separables(width, width, 3, 1, dtype, rngs)
        self.comb_iter_4_left = Separables(width, width, 3, 1, dtype, rngs)

    def __call__(self, maps: Maps, before: Maps) -> Maps:
        """Maps of 6 `width` channels."""
        older = self.halved(before) if self.halves else self.conv_prev_1x1(before)
        newer = self.conv_1x1(maps)
        averages = _average(older)
        return joined(
            older,
            self.comb_iter_0_left(newer) + self.comb_iter_0_right(older),
            self.comb_iter_1_left(older) + self.comb_iter_1_right(older),
            _average(newer) + older,
            averages + averages,
            self.comb_iter_4_left(newer) + newer,
        )


class NasNet(nnx.Module):
    """A NASNet-A; see `NasNetConfig`."""

    def __init__(self, config: NasNetConfig, dtype: jnp.dtype, rngs: nnx.Rngs) -> None:
        width, stem = config.width, config.stem
        self.config = config
        self.conv0 = ConvNorm(
            *(3, stem, 3, 2), epsilon=_EPSILON, activation=None, dtype=dtype, rngs=rngs
        )
        self.cell_stem_0 = StemCell0(stem, width // 4, dtype, rngs)
        self.cell_stem_1 = StemCell1(stem, width // 2, dtype, rngs)
        inputs, before = 2 * width, width  # channels of the two cells before
        for group in range(config.groups):
            if group:
                name = f"reduction_cell_{group - 1}"
                setattr(self, name, ReductionCell(inputs, 2 * width, dtype, rngs))
                width *= 2
                inputs, before = 4 * width, inputs
            for i in range(config.cells):
                cell = Cell(inputs, before, width, i == 0, dtype, rngs)
                setattr(self, f"cell_{_GROUP * group + i}", cell)
                inputs, before = 6 * width, inputs

    def __call__(self, pixels: jax.Array, size: jax.Array, max_side: int) -> jax.Array:
        """[B, H, W, 3] of sizes [B, 2] -> [B, D] float32; see `ResNet.__call__`."""
        first = self.conv0(Maps(pixels, size))
        before = self.cell_stem_0(first)
        maps = self.cell_stem_1(before, first)
        for group in range(self.config.groups):
            if group:  # the cell behind it sees the one before it, too
                maps = getattr(self, f"reduction_cell_{group - 1}")(maps, before)
            for i in range(self.config.cells):
                cell = getattr(self, f"cell_{_GROUP * group + i}")
                maps, before = cell(maps, before), maps
        return maps.relu().mean()
