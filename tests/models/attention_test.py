"""Attention: every way equals the plain one in float64, padding never counts."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ilias_jax.models import attention
from ilias_jax.models.attention import attend, choose, in_microbatches, largest_divisor

B, T, S, HEADS, SIZE = 3, 5, 7, 2, 8
LENGTHS = (7, 3, 1)
MASK = np.arange(S)[None] < np.array(LENGTHS)[:, None]


def inputs(dtype: str = "float32") -> list[jax.Array]:
    rng = np.random.default_rng(0)
    shapes = [(B, length, HEADS, SIZE) for length in (T, S, S)]
    # Scores reach 3 in float32, whose rounding errors the tolerances are for, and 30 in bfloat16.
    scale = 1 if dtype == "float32" else 3
    return [jnp.asarray(scale * rng.standard_normal(shape), dtype) for shape in shapes]


def oracle(lengths: tuple[int, ...], dtype: str = "float32") -> np.ndarray:
    """Row by row and head by head, over the real keys alone."""
    query, key, value = (np.asarray(x, np.float64) for x in inputs(dtype))
    expected = np.empty((B, T, HEADS, SIZE))
    for row, length in enumerate(lengths):
        for head in range(HEADS):
            scores = query[row, :, head] @ key[row, :length, head].T / np.sqrt(SIZE)
            weights = np.exp(scores - scores.max(axis=1, keepdims=True))
            weights /= weights.sum(axis=1, keepdims=True)
            expected[row, :, head] = weights @ value[row, :length, head]
    return expected


def on_one_device(way: str, arrays: list[jax.Array], mask: np.ndarray | None) -> np.ndarray:
    function = functools.partial(attend, choice=way)
    with jax.default_matmul_precision("highest"):
        return np.asarray(jax.jit(function)(*arrays, mask), np.float64)


@pytest.mark.parametrize("most", [1, 2 * T * S, 1 << 18])  # a head, two, all at a time
def test_grouped_equals_the_oracle(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    monkeypatch.setattr(attention, "_GROUP_SCORES", most)
    ours = on_one_device("grouped", inputs(), MASK)
    np.testing.assert_allclose(ours, oracle(LENGTHS), atol=2e-6)
    unmasked = on_one_device("grouped", inputs(), None)
    np.testing.assert_allclose(unmasked, oracle((S,) * B), atol=2e-6)


def test_xla_equals_the_oracle() -> None:
    np.testing.assert_allclose(on_one_device("xla", inputs(), MASK), oracle(LENGTHS), atol=2e-6)
    unmasked = on_one_device("xla", inputs(), None)
    np.testing.assert_allclose(unmasked, oracle((S,) * B), atol=2e-6)


@pytest.mark.parametrize("way", ["xla", "grouped"])
def test_bfloat16_rounds_weights_and_result_but_not_the_scores(way: str) -> None:
    ours = on_one_device(way, inputs("bfloat16"), MASK)
    expected = oracle(LENGTHS, "bfloat16")
    # Scores reach 30 here. Rounded to bfloat16 they would be off by up to 0.06, and so would the
    # weights by 6 %; weights and result rounded alone are off by 2 x 2**-9 of the values.
    assert np.abs(ours - expected).max() < 2**-7 * np.abs(expected).max()


@pytest.mark.parametrize("way", ["xla", "grouped"])
def test_what_padding_holds_never_counts(way: str) -> None:
    query, key, value = inputs()
    padding = ~MASK[:, :, None, None]
    filled = [query, *(jnp.where(padding, 1e4, array) for array in (key, value))]
    same = on_one_device(way, filled, MASK)
    np.testing.assert_array_equal(same, on_one_device(way, [query, key, value], MASK))


@pytest.mark.parametrize("way", ["xla", "grouped"])
def test_a_row_without_keys_is_finite(way: str) -> None:
    mask = MASK.copy()
    mask[2] = False
    assert np.isfinite(on_one_device(way, inputs(), mask)).all()


@pytest.mark.parametrize(
    ("num_heads", "scores", "expected"),
    [
        (96, 432 * 432, 1),
        (96, 1024 * 1024, 1),
        (12, 64 * 64, 12),
        (96, 128 * 128, 16),
        (7, 90000, 1),
    ],
)
def test_groups_divide_the_heads_and_fit_the_cache(num_heads, scores, expected) -> None:
    assert largest_divisor(num_heads, attention._GROUP_SCORES // scores) == expected


@pytest.mark.parametrize(
    ("platform", "dtype", "head_dim", "capability", "expected"),
    [
        ("cpu", "float32", 64, None, "grouped"),
        ("cpu", "bfloat16", 72, None, "grouped"),
        ("gpu", "bfloat16", 64, (9, 0), "cudnn"),
        ("gpu", "float16", 96, (8, 0), "cudnn"),
        ("gpu", "bfloat16", 72, (10, 3), "cudnn"),
        ("gpu", "float32", 64, (9, 0), "xla"),
        ("gpu", "bfloat16", 64, (7, 5), "xla"),
        ("gpu", "bfloat16", 64, None, "xla"),  # another maker's
        ("gpu", "bfloat16", 60, (9, 0), "xla"),
        ("gpu", "bfloat16", 160, (9, 0), "xla"),
        ("tpu", "bfloat16", 64, None, "xla"),
    ],
)
def test_the_choice(platform, dtype, head_dim, capability, expected) -> None:
    assert choose(platform, dtype, head_dim, capability) == expected


def test_lowering_for_cuda_calls_flash_attention_with_lengths(monkeypatch) -> None:
    """As far as a machine without GPU can go: the program asks cuDNN, padding given by lengths."""
    stablehlo = pytest.importorskip("jax._src.cudnn.fused_attention_stablehlo")
    monkeypatch.setattr(stablehlo, "check_cudnn_version", lambda: 91000)
    function = jax.jit(functools.partial(attend, choice="cudnn"))
    for mask, kind in ((MASK, "PADDING"), (None, "NO_MASK")):
        lowered = function.trace(*inputs("bfloat16"), mask).lower(lowering_platforms=("cuda",))
        text = lowered.as_text()
        assert "__cudnn$fmhaSoftmax" in text and kind in text
    query, key, value = inputs("bfloat16")
    one = function.trace(query[:, :1], key, value, MASK).lower(lowering_platforms=("cuda",))
    assert "__cudnn" not in one.as_text()  # a pooling query alone


@pytest.mark.parametrize("way", ["xla", "grouped"])
def test_causal_tokens_see_none_after_them(way: str) -> None:
    """Token t gets what it would get if the row ended with it."""
    query, key, value = (x[:, :T] for x in inputs())
    run = jax.jit(functools.partial(attend, choice=way, causal=True))
    with jax.default_matmul_precision("highest"):
        ours = np.asarray(run(query, key, value))
    for t in range(T):
        expected = oracle((t + 1,) * B)[:, t]
        np.testing.assert_allclose(ours[:, t], expected, atol=2e-6)


def microbatch_size(batch_size: int, num_tokens: int) -> int:
    return largest_divisor(batch_size, attention._MICROBATCH_TOKENS // num_tokens)


def test_microbatches_divide_the_batch_and_fit() -> None:
    assert microbatch_size(8, 576) == 1
    assert microbatch_size(32, 64) == 16
    assert microbatch_size(7, 64) == 7
    assert microbatch_size(7, 300) == 1  # three would fit, but do not divide
    assert microbatch_size(8, 5000) == 1
    assert microbatch_size(64, 1) == 64


@pytest.mark.parametrize("batch_size, num_tokens", [(6, 400), (8, 128), (3, 2), (1, 2000)])
def test_every_image_comes_back_in_its_place(batch_size: int, num_tokens: int) -> None:
    rng = np.random.default_rng(0)
    tokens = rng.normal(size=(batch_size, num_tokens, 3)).astype(np.float32)
    grid = rng.integers(1, 9, (batch_size, 2), np.int32)
    seen = []

    def embed(tokens: jax.Array, grid: jax.Array) -> jax.Array:
        seen.append(len(tokens))
        return jnp.concatenate([tokens.max(axis=1), grid.astype(jnp.float32)], axis=1)

    found = jax.jit(lambda *arrays: in_microbatches(embed, *arrays))(tokens, grid)
    np.testing.assert_array_equal(found, np.concatenate([tokens.max(axis=1), grid], axis=1))
    on_cpu = jax.local_devices()[0].platform == "cpu"
    assert seen == [microbatch_size(batch_size, num_tokens) if on_cpu else batch_size]
