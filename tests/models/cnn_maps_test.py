"""Layers on maps of several sizes beside the same layers on each map alone."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ilias_jax.models.cnn import resnet
from ilias_jax.models.cnn.convolution import convolve, transform
from ilias_jax.models.cnn.maps import (
    Conv,
    Maps,
    Padding,
    average_pool,
    gem,
    joined,
    max_pool,
)

SIZES = ((13, 10), (12, 13), (7, 13), (8, 5), (9, 9))
CHANNELS = 4
Layer = Callable[[Maps], Maps]


@functools.cache
def alone() -> list[np.ndarray]:
    """A map of each size, [h, w, C]."""
    rng = np.random.default_rng(0)
    return [rng.normal(size=(*size, CHANNELS)).astype(np.float32) for size in SIZES]


def on_canvas(outside: float) -> Maps:
    """All maps on one canvas of 13 x 13."""
    values = np.full((len(SIZES), 13, 13, CHANNELS), outside, np.float32)
    for canvas, one in zip(values, alone(), strict=True):
        canvas[: one.shape[0], : one.shape[1]] = one
    return Maps(jnp.asarray(values), jnp.asarray(SIZES, jnp.int32))


def conv(kernel: int | tuple[int, int], stride: int, padding: Padding, groups: int = 1) -> Layer:
    layer = Conv(
        *(CHANNELS, 8, kernel, stride, padding),
        groups=groups,
        bias=True,
        dtype=jnp.dtype("float32"),
        rngs=nnx.Rngs(0),
    )
    rng = np.random.default_rng(1)
    layer.kernel[...] = rng.normal(size=layer.kernel.shape).astype(np.float32)
    layer.bias[...] = rng.normal(size=layer.bias.shape).astype(np.float32)
    return layer


def official(layer: Layer, one: np.ndarray) -> np.ndarray:
    """The layer on one map without anything around."""
    size = jnp.asarray([one.shape[:2]], jnp.int32)
    found = layer(Maps(jnp.asarray(one)[None], size))
    assert found.values.shape[1:3] == tuple(found.size[0].tolist())  # nothing beyond the map
    return np.asarray(found.values)[0]


LAYERS: dict[str, Layer] = {
    "3 x 3": conv(3, 1, 1),
    "3 x 3 by 2": conv(3, 2, 1),
    "valid": conv(3, 2, 0),
    "1 x 1 by 2": conv(1, 2, 0),
    "patches": conv(2, 2, 0),
    "1 x 7": conv((1, 7), 1, (0, 3)),
    "7 x 1": conv((7, 1), 1, (3, 0)),
    "11 x 11 by 4": conv(11, 4, 2),
    "groups": conv(5, 1, 2, CHANNELS),
    **{f"same {k} by {s}": conv(k, s, "same") for k in (1, 2, 3, 5, 7) for s in (1, 2)},
    "same groups": conv(5, 2, "same", CHANNELS),
    "largest": functools.partial(max_pool, kernel=3, stride=2, padding=1),
    "largest, valid": functools.partial(max_pool, kernel=3, stride=2),
    "largest, same": functools.partial(max_pool, kernel=3, stride=2, padding="same"),
    "mean": functools.partial(average_pool, kernel=2, stride=2),
    "mean, same": functools.partial(average_pool, kernel=3, stride=2, padding="same"),
    "mean of what there is": functools.partial(
        average_pool, kernel=3, stride=1, padding=1, count_padding=False
    ),
    "regions": lambda maps: resnet.regional(maps.relu()),
    "joined": lambda maps: joined(maps, maps.relu()),
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("outside", [np.nan, 1e30])
def test_what_lies_outside_of_a_map_never_counts(name: str, outside: float) -> None:
    layer = LAYERS[name]
    found = layer(on_canvas(outside))
    for values, size, one in zip(found.values, found.size, alone(), strict=True):
        expected = official(layer, one)
        assert tuple(size.tolist()) == expected.shape[:2]
        ours = np.asarray(values)[: expected.shape[0], : expected.shape[1]]
        np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-5)


def tensorflow(one: np.ndarray, kernel: int, stride: int) -> np.ndarray:
    """What XLA's own "SAME" gives with the kernel of the layer, which is TensorFlow's rule."""
    layer = LAYERS[f"same {kernel} by {stride}"]
    dimensions = ("NHWC", "HWIO", "NHWC")
    found = jax.lax.conv_general_dilated(
        one[None], layer.kernel[...], (stride, stride), "SAME", dimension_numbers=dimensions
    )
    return np.asarray(found + layer.bias[...])[0]


@pytest.mark.parametrize("kernel", [1, 2, 3, 5, 7])
@pytest.mark.parametrize("stride", [1, 2])
def test_same_is_tensorflows(kernel: int, stride: int) -> None:
    for one in alone():
        found = official(LAYERS[f"same {kernel} by {stride}"], one)
        np.testing.assert_allclose(found, tensorflow(one, kernel, stride), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kernel", [2, 3, 5])
@pytest.mark.parametrize("stride", [1, 2])
def test_same_pools_are_tensorflows(kernel: int, stride: int) -> None:
    """What is beyond a map is no largest value, and counts as zeros in a mean."""
    window = (1, kernel, kernel, 1), (1, stride, stride, 1), "SAME"
    for one in alone():
        below = one - 9.0  # of which zero would be the largest
        largest = jax.lax.reduce_window(below[None], -np.inf, jax.lax.max, *window)[0]
        total = jax.lax.reduce_window(below[None], 0.0, jax.lax.add, *window)[0]
        for pool, expected in ((max_pool, largest), (average_pool, total / kernel**2)):
            layer = functools.partial(pool, kernel=kernel, stride=stride, padding="same")
            np.testing.assert_allclose(official(layer, below), expected, rtol=1e-5)


def test_means_are_of_each_map() -> None:
    maps = on_canvas(np.nan)
    found, powers = maps.mean(), gem(maps, 3.0, 1e-6)
    for mean, power, one in zip(found, powers, alone(), strict=True):
        np.testing.assert_allclose(mean, one.mean(axis=(0, 1)), rtol=1e-5, atol=1e-6)
        expected = (np.maximum(one, 1e-6) ** 3).mean(axis=(0, 1)) ** (1 / 3)
        np.testing.assert_allclose(power, expected, rtol=1e-5)


WAYS = [
    ((12, 9, 64), 32, 1, 1, ((0, 0), (0, 0)), 1),
    ((13, 9, 64), 32, 1, 2, ((0, 0), (0, 0)), 1),
    ((12, 9, 64), 32, 3, 1, ((1, 1), (1, 1)), 1),
    ((13, 11, 48), 32, 3, 1, ((0, 1), (2, 1)), 1),
    ((13, 10, 3), 16, 4, 4, ((0, 0), (0, 0)), 1),
    ((12, 9, 48), 48, 7, 1, ((3, 3), (3, 3)), 48),
    ((13, 9, 24), 24, 5, 2, ((1, 2), (2, 2)), 24),
    ((13, 9, 5), 5, 3, 1, ((1, 1), (1, 1)), 5),
    ((10, 9, 32), 32, 3, 1, ((1, 1), (1, 1)), 4),
]


@pytest.mark.parametrize(("shape", "outputs", "side", "stride", "padding", "groups"), WAYS)
def test_ways_of_a_cpu_are_the_convolution(shape, outputs, side, stride, padding, groups) -> None:
    rng = np.random.default_rng(2)
    array = rng.normal(size=(2, *shape)).astype(np.float32)
    kernel = rng.normal(size=(side, side, shape[2] // groups, outputs)).astype(np.float32)
    found = convolve(array, kernel, stride, padding, groups, transform(kernel, stride, groups))
    expected = jax.lax.conv_general_dilated(
        array,
        kernel,
        (stride, stride),
        padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
        precision="highest",
    )
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() < 2e-6 * np.abs(expected).max()
