import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ilias_jax.towers.position import axis_weights, position_embedding, side_weights

SIDES = (1, 2, 5, 6, 13, 24, 32, 46)
MAX_SIDE = 9
GRIDS = ((9, 9), (9, 1), (1, 9), (5, 7), (6, 6), (6, 9), (3, 4), (1, 1))
NUM_TOKENS = 90  # more than the largest grid's 81


def resized(learned: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """The whole grid resized at once."""
    shape = (rows, columns, learned.shape[2])
    return np.asarray(jax.image.resize(learned, shape, "cubic", antialias=True))


@functools.partial(jax.jit, static_argnums=0)
def resized_axes(native: int) -> list[jax.Array]:
    """The weights of jax.image.resize for each of `SIDES`."""
    eye = jnp.eye(native)
    return [jax.image.resize(eye, (side, native), "cubic", antialias=True) for side in SIDES]


@pytest.mark.parametrize("native", [6, 14, 24, 37])
def test_side_weights_are_those_of_jax_image_resize(native):
    for side, expected in zip(SIDES, resized_axes(native), strict=True):
        ours = side_weights(native, side)
        assert ours.shape == (side, native)
        assert ours.dtype == np.float32
        np.testing.assert_allclose(ours, expected, atol=5e-6)  # jax works in float32


@pytest.mark.parametrize("native", [1, 3, 24])
def test_side_weights_sum_to_one_and_are_symmetric(native):
    for side in range(1, 60):
        weights = side_weights(native, side)
        np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-6)
        np.testing.assert_allclose(weights, weights[::-1, ::-1], atol=1e-6)


def test_the_native_side_is_left_as_it_is():
    np.testing.assert_array_equal(side_weights(24, 24), np.eye(24))


def test_axis_weights_hold_every_side_and_zeros_beyond():
    table = axis_weights(6, MAX_SIDE)
    assert table.shape == (MAX_SIDE + 1, MAX_SIDE, 6)
    for side in range(1, MAX_SIDE + 1):
        np.testing.assert_array_equal(table[side, :side], side_weights(6, side))
        assert not table[side, side:].any()


@pytest.fixture(scope="module")
def learned() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((6, 6, 5)).astype(np.float32)


@pytest.fixture(scope="module")
def embedded(learned) -> np.ndarray:
    grid = jnp.asarray(GRIDS, jnp.int32)
    return np.asarray(position_embedding(jnp.asarray(learned), grid, NUM_TOKENS, MAX_SIDE))


@pytest.mark.parametrize("image", range(len(GRIDS)))
def test_every_image_of_a_batch_gets_its_own_resized_grid(learned, embedded, image):
    rows, columns = GRIDS[image]
    expected = resized(learned, rows, columns).reshape(rows * columns, -1)
    np.testing.assert_allclose(embedded[image, : rows * columns], expected, atol=5e-6)


def test_the_native_grid_comes_back_untouched(learned, embedded):
    ours = embedded[GRIDS.index((6, 6)), :36]
    np.testing.assert_allclose(ours, learned.reshape(36, -1), rtol=1e-6)


def test_tokens_beyond_the_grid_are_finite(embedded):
    assert embedded.shape == (len(GRIDS), NUM_TOKENS, 5)
    assert np.isfinite(embedded).all()
