"""Rotary embeddings against pairs turned one by one as complex numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ilias_jax.towers.rope import Rope, rotate, rotation

GRIDS = np.asarray([(3, 5), (1, 4), (4, 4)], np.int32)
NUM_TOKENS, NUM_PREFIX, HEAD_DIM = 18, 2, 8
PERIODS = np.asarray([1.0, 3.0], np.float32)


def angles(rope: Rope, rows: int, columns: int, row: int, column: int) -> list[float]:
    """Of the pairs of a head, by hand."""
    if rope.form == "dinov3":
        places = [2 * (row + 0.5) / rows - 1, 2 * (column + 0.5) / columns - 1]
        return [2 * np.pi * place / period for place in places for period in PERIODS]
    if rope.form == "eva":
        places = [row / rows * rope.reference, column / columns * rope.reference]
    else:
        places = [(column + 1) / columns * rope.reference, (row + 1) / rows * rope.reference]
    return [place / 10_000 ** (i / 2) for place in places for i in range(2)]


def turned(x: np.ndarray, angle: list[float], interleaved: bool) -> np.ndarray:
    first, second = (x[0::2], x[1::2]) if interleaved else np.split(x, 2)
    result = (first + 1j * second) * np.exp(1j * np.asarray(angle))
    if interleaved:
        return np.stack([result.real, result.imag], axis=1).reshape(-1)
    return np.concatenate([result.real, result.imag])


@pytest.mark.parametrize("rope", [Rope("eva", 16), Rope("pe", 7), Rope("dinov3")], ids=str)
def test_every_pair_turns_by_its_angle(rope):
    x = np.random.default_rng(0).normal(size=(3, NUM_PREFIX + NUM_TOKENS, 2, HEAD_DIM))
    x = x.astype(np.float32)
    by = rotation(rope, jnp.asarray(GRIDS), NUM_TOKENS, NUM_PREFIX, HEAD_DIM, jnp.asarray(PERIODS))
    ours = np.asarray(jax.jit(rotate)(x, by))
    np.testing.assert_array_equal(ours[:, :NUM_PREFIX], x[:, :NUM_PREFIX])
    for image, (rows, columns) in enumerate(GRIDS):
        for token in range(rows * columns):
            angle = angles(rope, rows, columns, *divmod(token, columns))
            for head in range(2):
                place = image, NUM_PREFIX + token, head
                expected = turned(x[place], angle, rope.form != "dinov3")
                np.testing.assert_allclose(ours[place], expected, atol=2e-6)


def test_the_dtype_stays_and_the_angle_is_exact():
    """In bfloat16 a position of 31 times a band would be off by a tenth of a turn."""
    x = jnp.ones((1, 32, 1, HEAD_DIM), jnp.bfloat16)
    grid = jnp.asarray([(1, 32)], jnp.int32)
    by = rotation(Rope("eva", 32), grid, 32, 0, HEAD_DIM)
    assert by.cos.dtype == jnp.float32
    ours = rotate(x, by)
    assert ours.dtype == jnp.bfloat16
    np.testing.assert_allclose(ours[0, 31, 0, 4], np.cos(31) - np.sin(31), atol=1e-2)
