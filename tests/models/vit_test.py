"""Heads of image towers against loops over the cells and tokens of single images."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ilias_jax.models.vit import BatchNorm, FlattenHead, masked_mean

WIDTH, NATIVE, DIM, MAX_SIDE = 6, 3, 4, 7


def randomized(module: nnx.Module) -> nnx.Module:
    rng = np.random.default_rng(0)
    state = nnx.state(module, nnx.Param)
    drawn = jax.tree.map(lambda leaf: jnp.asarray(rng.uniform(0.5, 1.5, leaf.shape)), state)
    nnx.update(module, jax.tree.map(lambda leaf: leaf.astype(jnp.float32), drawn))
    return module


def normalised(x: np.ndarray, norm: BatchNorm) -> np.ndarray:
    mean, variance, scale, bias = (
        np.asarray(p[...], np.float64) for p in (norm.mean, norm.variance, norm.scale, norm.bias)
    )
    return (x - mean) / np.sqrt(variance + 2e-5) * scale + bias


def averaged(image: np.ndarray) -> np.ndarray:
    """[H, W, D] -> [NATIVE, NATIVE, D], a cell over all that it touches."""
    cells = np.zeros((NATIVE, NATIVE, image.shape[2]))
    for i, j in np.ndindex(NATIVE, NATIVE):
        (top, bottom), (left, right) = (
            (cell * side // NATIVE, -(-(cell + 1) * side // NATIVE))
            for cell, side in zip((i, j), image.shape[:2], strict=True)
        )
        cells[i, j] = image[top:bottom, left:right].mean(axis=(0, 1))
    return cells


@pytest.mark.parametrize("grid", [(3, 3), (7, 2), (1, 5), (6, 4), (2, 2)])
def test_all_tokens_are_averaged_into_the_native_grid(grid):
    head = randomized(FlattenHead(WIDTH, NATIVE, DIM, jnp.dtype("float32"), nnx.Rngs(0)))
    rows, columns = grid
    x = np.random.default_rng(1).normal(size=(1, 30, WIDTH)).astype(np.float32)
    image = x[0, : rows * columns].reshape(rows, columns, WIDTH).astype(np.float64)
    x[0, rows * columns :] = np.nan  # padding must not be looked at
    first, second = (
        np.asarray(layer.kernel[...], np.float64) for layer in (head.first, head.second)
    )
    hidden = normalised(averaged(image).reshape(-1) @ first, head.norm1)
    expected = normalised(hidden @ second, head.norm2)
    ours = head(jnp.asarray(x), jnp.asarray([grid], jnp.int32), MAX_SIDE)
    np.testing.assert_allclose(ours[0], expected, rtol=2e-5)


def test_the_mean_is_of_real_tokens():
    x = np.random.default_rng(2).normal(size=(2, 5, WIDTH)).astype(np.float32)
    mask = np.arange(5)[None] < np.asarray([[3], [5]])
    expected = [x[0, :3].mean(axis=0), x[1].mean(axis=0)]
    x[0, 3:] = np.nan
    np.testing.assert_allclose(masked_mean(jnp.asarray(x), mask), expected, atol=1e-6)
