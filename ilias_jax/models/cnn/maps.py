"""Feature maps of images of several sizes on one canvas, and layers that treat each as if alone.

An image lies in the top left corner of its canvas and so do all maps that are made of it. What lies
beyond a map's own height and width has no meaning: a layer that looks there, as convolutions and
pools at a border do, first replaces it by what the border is to be. So every layer gives what it
would give on the image alone, and a program is compiled for each canvas and not for each size.

The size of a map follows its image's: floor((n + 2 padding - kernel) / stride) + 1 in PyTorch, and
ceil(n / stride) under TensorFlow's "same" padding, of which half, rounded down, is before the map.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, ClassVar, Literal, Self

import jax
import jax.numpy as jnp
from flax import nnx

from ilias_jax.models.cnn.convolution import convolve, transform
from ilias_jax.models.layers import Activation, BatchNorm, activate


@dataclasses.dataclass(frozen=True)
class CnnConfig:
    """What the architectures of all CNNs have.

    Attributes:
        activation: after convolutions.
        min_side: pixels of the shortest side that leaves anything of the last maps.
        patch_size, whole: of the preprocessing, see there.
    """

    activation: Activation = dataclasses.field(default="relu", kw_only=True)
    min_side: int = dataclasses.field(default=1, kw_only=True)
    patch_size: ClassVar[int] = 1
    whole: ClassVar[bool] = True

    @property
    def embedding_dim(self) -> int:
        """Channels D of an embedding."""
        raise NotImplementedError

    def with_activation(self, activation: Activation) -> Self:
        """The same with another one."""
        return dataclasses.replace(self, activation=activation)

    def tower(self, dtype: jnp.dtype, rngs: nnx.Rngs) -> nnx.Module:
        """The module."""
        raise NotImplementedError


Kernels = tuple[jax.Array, ...]  # of `convolution.transform`
Padding = int | tuple[int, int] | Literal["same"]


@functools.partial(jax.tree_util.register_dataclass, data_fields=["values", "size"], meta_fields=[])
@dataclasses.dataclass(frozen=True)
class Maps:
    """Feature maps of a batch.

    Attributes:
        values: [B, H, W, C]; those outside of an image's own map do not count, and may be anything.
        size: [B, 2] int32 height and width of each image's map.
    """

    values: jax.Array
    size: jax.Array

    @property
    def inside(self) -> jax.Array:
        """[B, H, W, 1] bool, True within each image's map."""
        height, width = self.values.shape[1:3]
        rows = jnp.arange(height, dtype=jnp.int32) < self.size[:, :1]
        columns = jnp.arange(width, dtype=jnp.int32) < self.size[:, 1:]
        return (rows[:, :, None] & columns[:, None, :])[..., None]

    def masked(self, outside: float = 0.0) -> jax.Array:
        """The values with those outside replaced."""
        return jnp.where(self.inside, self.values, jnp.asarray(outside, self.values.dtype))

    def apply(self, function: Callable[[jax.Array], jax.Array]) -> "Maps":
        """Applies a function that treats every position alike."""
        return Maps(function(self.values), self.size)

    def __add__(self, other: "Maps") -> "Maps":
        return Maps(self.values + other.values, self.size)

    def relu(self) -> "Maps":
        """max(x, 0)."""
        return self.apply(jax.nn.relu)

    def mean(self) -> jax.Array:
        """Mean over each image's map: [B, C] float32."""
        values = Maps(self.values.astype(jnp.float32), self.size).masked()
        area = (self.size[:, :1] * self.size[:, 1:]).astype(jnp.float32)
        return values.sum(axis=(1, 2)) / area


def joined(*maps: Maps) -> Maps:
    """Maps of the same images one after the other along their channels."""
    return Maps(jnp.concatenate([each.values for each in maps], axis=3), maps[0].size)


@dataclasses.dataclass(frozen=True)
class Window:
    """How a kernel moves over a map.

    Attributes:
        kernel: height and width.
        stride: of both axes.
        padding: before and after the map, of height and width; "same" as in TensorFlow.
    """

    kernel: tuple[int, int]
    stride: int = 1
    padding: tuple[int, int] | Literal["same"] = (0, 0)

    @classmethod
    def of(cls, kernel: int | tuple[int, int], stride: int = 1, padding: Padding = 0) -> "Window":
        """A window whose equal numbers need not be given twice."""
        sides = kernel if isinstance(kernel, tuple) else (kernel, kernel)
        return cls(sides, stride, (padding, padding) if isinstance(padding, int) else padding)

    def reach(self, maps: Maps, outside: float = 0.0) -> tuple[jax.Array, tuple, jax.Array]:
        """What a kernel that moves over an array alone must be given to move over the maps.

        Returns:
            (array [B, H, W, C], pixels to pad ((above, below), (left, right)), size [B, 2] int32 of
            the new maps). Padding and array are `outside` where a map ends.
        """
        if self.padding == "same":
            return self._same(maps, outside)
        if self.padding == (0, 0):  # which never looks beyond a map
            return maps.values, ((0, 0), (0, 0)), self._moved(maps.size, (0, 0))
        first, second = self.padding
        pads = (first, first), (second, second)
        return maps.masked(outside), pads, self._moved(maps.size, self.padding)

    def _moved(self, size: jax.Array, padding: tuple[int, int]) -> jax.Array:
        free = size + 2 * jnp.array(padding, jnp.int32) - jnp.array(self.kernel, jnp.int32)
        return free // self.stride + 1

    def _same(self, maps: Maps, outside: float) -> tuple[jax.Array, tuple, jax.Array]:
        """With a stride of 2 there is one pixel more before a map of an odd side, if any is.

        The array of such a map begins with that pixel instead of having it in the padding.
        """
        assert self.stride in (1, 2)
        array, pads = maps.masked(outside), []
        for axis, kernel in zip((1, 2), self.kernel, strict=True):
            before = (kernel - 1) // 2
            if self.stride == 2 and kernel > 2:
                before -= 1
                is_odd = (maps.size[:, axis - 1] % 2 == 1)[:, None, None, None]
                array = jnp.where(
                    is_odd,
                    _grown(array, axis, (1, 0), outside),
                    _grown(array, axis, (0, 1), outside),
                )
            length = maps.values.shape[axis]
            needed = (-(-length // self.stride) - 1) * self.stride + kernel
            pads.append((before, max(0, needed - before - array.shape[axis])))
        return array, tuple(pads), -(-maps.size // self.stride)


def _grown(array: jax.Array, axis: int, pads: tuple[int, int], value: float) -> jax.Array:
    widths = [pads if i == axis else (0, 0) for i in range(array.ndim)]
    return jnp.pad(array, widths, constant_values=value)


class Conv(nnx.Module):
    """A convolution; products and sums are of `dtype`, the kernel is [height, width, in, out]."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int | tuple[int, int],
        stride: int = 1,
        padding: Padding = 0,
        *,
        groups: int = 1,
        bias: bool = False,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ) -> None:
        self.window = Window.of(kernel, stride, padding)
        self.groups, self.dtype = groups, dtype
        shape = (*self.window.kernel, inputs // groups, outputs)
        self.kernel = nnx.Param(jnp.zeros(shape, jnp.float32))  # a file has it
        self.bias = nnx.Param(jnp.zeros((outputs,), jnp.float32)) if bias else None
        self.transformed: Any = ()

    def transform(self) -> Kernels:
        """What `convolve` makes of the kernel, as far as it is the same for all images."""
        return transform(self.kernel[...].astype(self.dtype), self.window.stride, self.groups)

    def __call__(self, maps: Maps) -> Maps:
        """Maps of `inputs` channels to maps of `outputs`, of dtype `dtype`."""
        array, padding, size = self.window.reach(maps.apply(lambda x: x.astype(self.dtype)))
        kernel = self.kernel[...].astype(self.dtype)
        stride = self.window.stride
        values = convolve(array, kernel, stride, padding, self.groups, self.transformed)
        if self.bias is not None:
            values = values + self.bias[...].astype(self.dtype)
        return Maps(values, size)


def normalized(maps: Maps, norm: BatchNorm, activation: Activation | None = "relu") -> Maps:
    """Batch norm in float32, then the activation, in the dtype of the maps."""
    dtype = maps.values.dtype

    def both(x: jax.Array) -> jax.Array:
        y = norm(x)
        return (y if activation is None else activate(y, activation)).astype(dtype)

    return maps.apply(both)


class ConvNorm(nnx.Module):
    """A convolution, a batch norm and an activation, under timm's names."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int | tuple[int, int] = 1,
        stride: int = 1,
        padding: Padding = 0,
        *,
        groups: int = 1,
        epsilon: float = 1e-5,
        activation: Activation | None = "relu",
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ) -> None:
        self.conv = Conv(
            *(inputs, outputs, kernel, stride, padding), groups=groups, dtype=dtype, rngs=rngs
        )
        self.bn = BatchNorm(outputs, epsilon)
        self.activation = activation

    def __call__(self, maps: Maps) -> Maps:
        """Maps of `inputs` channels to maps of `outputs`."""
        return normalized(self.conv(maps), self.bn, self.activation)


def gem(maps: Maps, power: jax.Array | float, least: float) -> jax.Array:
    """Generalised mean of each map (Radenovic et al., 2019, eq. 3), [B, C] float32."""
    maps = maps.apply(lambda x: jnp.maximum(x.astype(jnp.float32), least) ** power)
    return maps.mean() ** (1.0 / power)


def max_pool(maps: Maps, kernel: int, stride: int, padding: Padding = 0) -> Maps:
    """The largest value in a window; padding counts as none."""
    window = Window.of(kernel, stride, padding)
    array, pads, size = window.reach(maps, -jnp.inf)
    return Maps(_reduced(array, window, pads, -jnp.inf, jax.lax.max), size)


def average_pool(
    maps: Maps, kernel: int, stride: int, padding: Padding = 0, *, count_padding: bool = True
) -> Maps:
    """The mean of a window; `count_padding` divides by its area also where it leaves the map."""
    window = Window.of(kernel, stride, padding)
    array, pads, size = window.reach(maps)
    total = _reduced(array, window, pads, 0.0, jax.lax.add)
    if count_padding or padding == 0:
        return Maps(total / (kernel * kernel), size)
    ones, _, _ = window.reach(Maps(jnp.ones_like(maps.values[..., :1]), maps.size))
    count = _reduced(ones, window, pads, 0.0, jax.lax.add)
    return Maps(total / jnp.maximum(count, 1), size)


def _reduced(
    array: jax.Array, window: Window, pads: tuple, start: float, function: Callable
) -> jax.Array:
    initial = jnp.asarray(start, array.dtype)
    sides, strides = (1, *window.kernel, 1), (1, window.stride, window.stride, 1)
    padding = ((0, 0), *pads, (0, 0))
    return jax.lax.reduce_window(array, initial, function, sides, strides, padding)
