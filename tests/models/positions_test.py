import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ilias_jax.models.positions import (
    Rope,
    axis_weights,
    position_embedding,
    rotate,
    rotation,
    side_weights,
)

SIDES = (1, 2, 5, 6, 13, 24, 32, 46)
MAX_SIDE = 9
GRIDS = ((9, 9), (9, 1), (1, 9), (5, 7), (6, 6), (6, 9), (3, 4), (1, 1))
NUM_TOKENS = 90  # more than the largest grid's 81
LEARNED = np.random.default_rng(0).standard_normal((6, 6, 5)).astype(np.float32)


METHODS = {"bicubic": "cubic", "bilinear": "linear"}  # by our names


def resized(learned: np.ndarray, rows: int, columns: int, rule: str) -> np.ndarray:
    """The whole grid resized at once."""
    shape = (rows, columns, learned.shape[2])
    return np.asarray(jax.image.resize(learned, shape, METHODS[rule], antialias=True))


@functools.partial(jax.jit, static_argnums=(0, 1))
def resized_axes(native: int, rule: str) -> list[jax.Array]:
    """The weights of jax.image.resize for each of `SIDES`."""
    eye, method = jnp.eye(native), METHODS[rule]
    return [jax.image.resize(eye, (side, native), method, antialias=True) for side in SIDES]


@pytest.mark.parametrize("rule", METHODS)
@pytest.mark.parametrize("native", [6, 14, 16, 24, 37])
def test_side_weights_are_those_of_jax_image_resize(native, rule):
    for side, expected in zip(SIDES, resized_axes(native, rule), strict=True):
        ours = side_weights(native, side, rule)
        assert ours.shape == (side, native)
        assert ours.dtype == np.float32
        np.testing.assert_allclose(ours, expected, atol=5e-6)  # jax works in float32


@pytest.mark.parametrize("rule", METHODS)
@pytest.mark.parametrize("native", [1, 3, 24])
def test_side_weights_sum_to_one_and_are_symmetric(native, rule):
    for side in range(1, 60):
        weights = side_weights(native, side, rule)
        np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-6)
        np.testing.assert_allclose(weights, weights[::-1, ::-1], atol=1e-6)


def test_the_native_side_is_left_as_it_is():
    for rule in METHODS:
        np.testing.assert_array_equal(side_weights(24, 24, rule), np.eye(24))


def test_axis_weights_hold_every_side_and_zeros_beyond():
    table = axis_weights(6, MAX_SIDE)
    assert table.shape == (MAX_SIDE + 1, MAX_SIDE, 6)
    for side in range(1, MAX_SIDE + 1):
        np.testing.assert_array_equal(table[side, :side], side_weights(6, side))
        assert not table[side, side:].any()


@functools.cache
def embedded(rule: str = "bicubic") -> np.ndarray:
    """The position embeddings of `GRIDS` in one batch."""
    grid = jnp.asarray(GRIDS, jnp.int32)
    ours = position_embedding(jnp.asarray(LEARNED), grid, NUM_TOKENS, MAX_SIDE, rule)
    return np.asarray(ours)


@pytest.mark.parametrize("rule", METHODS)
@pytest.mark.parametrize("image", range(len(GRIDS)))
def test_every_image_of_a_batch_gets_its_own_resized_grid(image, rule):
    rows, columns = GRIDS[image]
    expected = resized(LEARNED, rows, columns, rule).reshape(rows * columns, -1)
    np.testing.assert_allclose(embedded(rule)[image, : rows * columns], expected, atol=5e-6)


def test_the_rules_differ():
    assert np.abs(embedded("bicubic")[3, :35] - embedded("bilinear")[3, :35]).max() > 0.01


@functools.partial(jax.jit, static_argnums=1)
def big_visions(learned: jax.Array, grids: tuple[tuple[int, int], ...]) -> list[jax.Array]:
    """`_pos_emb_resize` of NaFlex models, which scales the learned grid by rows and columns."""
    native, _, width = learned.shape
    return [
        jax.image.scale_and_translate(
            learned,
            (rows, columns, width),
            (0, 1),
            jnp.asarray([rows / native, columns / native]),
            jnp.zeros(2),
            "bilinear",
            antialias=True,
        ).reshape(rows * columns, width)
        for rows, columns in grids
    ]


def test_naflex_positions_are_big_visions():
    learned = np.random.default_rng(1).standard_normal((16, 16, 3)).astype(np.float32)
    grids = ((32, 24), (7, 31), (16, 16), (1, 64))
    grid = jnp.asarray(grids, jnp.int32)
    ours = position_embedding(jnp.asarray(learned), grid, 32 * 24, 64, "bilinear")
    for row, expected in zip(ours, big_visions(learned, grids), strict=True):
        np.testing.assert_allclose(row[: len(expected)], expected, atol=5e-6)


@pytest.mark.parametrize("rule", METHODS)
def test_the_native_grid_comes_back_untouched(rule):
    ours = embedded(rule)[GRIDS.index((6, 6)), :36]
    np.testing.assert_allclose(ours, LEARNED.reshape(36, -1), rtol=1e-6)


def test_tokens_beyond_the_grid_are_finite():
    assert embedded().shape == (len(GRIDS), NUM_TOKENS, 5)
    assert np.isfinite(embedded()).all()


def clamped_axis(native: int, side: int, offset: float) -> np.ndarray:
    """PyTorch's bicubic weights of one axis, neighbour by neighbour."""

    def kernel(distance: float, a: float = -0.75) -> float:
        d = abs(distance)
        if d <= 1:
            return (a + 2) * d**3 - (a + 3) * d**2 + 1
        return a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a if d < 2 else 0.0

    weights = np.zeros((side, native))
    for i in range(side):
        source = (i + 0.5) / ((side + offset) / native) - 0.5
        for neighbour in range(int(np.floor(source)) - 1, int(np.floor(source)) + 3):
            weights[i, min(max(neighbour, 0), native - 1)] += kernel(source - neighbour)
    return weights


@pytest.mark.parametrize(("rule", "offset"), [("clamped", 0.0), ("offset", 0.1)])
@pytest.mark.parametrize("native", [6, 14, 37])
def test_pytorchs_interpolation_to_a_size_and_by_a_factor(native, rule, offset):
    for side in SIDES:
        ours = side_weights(native, side, rule)
        np.testing.assert_allclose(ours, clamped_axis(native, side, offset), atol=1e-6)
        np.testing.assert_allclose(ours.sum(axis=1), 1, atol=1e-6)


@pytest.mark.parametrize(("rule", "offset"), [("clamped", 0.0), ("offset", 0.1)])
def test_every_image_gets_its_grid_by_pytorchs_rules_too(rule, offset):
    """DINO leaves the native grid alone, and no other, also none with one native side."""
    for image, (rows, columns) in enumerate(GRIDS):
        native = rule == "offset" and (rows, columns) == (6, 6)
        by_row, by_column = (
            np.eye(6) if native else clamped_axis(6, side, offset) for side in (rows, columns)
        )
        expected = np.einsum("ri,cj,ijd->rcd", by_row, by_column, LEARNED).reshape(-1, 5)
        np.testing.assert_allclose(embedded(rule)[image, : rows * columns], expected, atol=5e-6)


ROPE_GRIDS = np.asarray([(3, 5), (1, 4), (4, 4)], np.int32)
ROPE_TOKENS, NUM_PREFIX, HEAD_DIM = 18, 2, 8
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
    x = np.random.default_rng(0).normal(size=(3, NUM_PREFIX + ROPE_TOKENS, 2, HEAD_DIM))
    x = x.astype(np.float32)
    by = rotation(
        rope, jnp.asarray(ROPE_GRIDS), ROPE_TOKENS, NUM_PREFIX, HEAD_DIM, jnp.asarray(PERIODS)
    )
    ours = np.asarray(jax.jit(rotate)(x, by))
    np.testing.assert_array_equal(ours[:, :NUM_PREFIX], x[:, :NUM_PREFIX])
    for image, (rows, columns) in enumerate(ROPE_GRIDS):
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
