import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import parity_weights as seeded
import pytest
import siglip_oracle as oracle
from small_siglip import CONFIG, SIZES

from ilias_jax.models import layers
from ilias_jax.models.checkpoints.flax_names import from_big_vision
from ilias_jax.models.load import tower_model
from ilias_jax.models.parameters import parameter_shapes
from ilias_jax.models.registry.siglip import siglip
from ilias_jax.models.tokenizers import Tokenizer

GRIDS = ((6, 6), (2, 6), (1, 1), (6, 3))
NUM_TOKENS = 40  # more than the largest grid has


@functools.cache
def parameters() -> dict[str, np.ndarray]:
    return from_big_vision(seeded.weights(), CONFIG, "seeded weights")


@functools.cache
def functions(dtype: str = "float32"):
    """Jitted (patches, grid) -> vectors and tokens -> vectors."""
    tokenizer = Tokenizer(b"unused", seeded.TEXT_LENGTH)
    side = seeded.PATCH * seeded.NATIVE_GRID
    model = tower_model("small", CONFIG, parameters(), tokenizer, side, dtype, {})
    return (
        functools.partial(jax.jit(model.embed_images), model.parameters),
        functools.partial(jax.jit(model.embed_texts), model.parameters),
    )


@functools.cache
def _patches() -> np.ndarray:
    rng = np.random.default_rng(5)
    shape = (len(GRIDS), NUM_TOKENS, seeded.PATCH**2 * 3)
    return rng.uniform(-1, 1, shape).astype(np.float32)


def embed(patches: np.ndarray, dtype: str = "float32") -> np.ndarray:
    images, _ = functions(dtype)
    return np.asarray(images(patches, np.asarray(GRIDS, np.int32)))


def filled_beyond(value: float) -> np.ndarray:
    """The patches with `value` in every token that belongs to no image."""
    patches = _patches().copy()
    for row, (rows, columns) in zip(patches, GRIDS, strict=True):
        row[rows * columns :] = value
    return patches


def test_the_image_tower_equals_the_oracle_at_the_native_grid():
    image = oracle.under(parameters(), "image")
    position = image["position"].reshape(36, -1)
    expected = oracle.image_tower(_patches()[0, :36], position, image, CONFIG.text.block.activation)
    np.testing.assert_allclose(embed(_patches())[0], expected, atol=2e-5, rtol=1e-5)


def test_the_text_tower_equals_the_oracle():
    """Padding is attended to, nothing is causal, and the last token is the one that counts."""
    _, texts = functions()
    tokens = seeded.tokens()
    ours = np.asarray(texts(tokens))
    text = oracle.under(parameters(), "text")
    for row, expected in zip(ours, tokens, strict=True):
        expected = oracle.text_tower(expected, text, CONFIG.text.block.activation)
        np.testing.assert_allclose(row, expected, atol=1e-5, rtol=1e-5)


def test_towers_of_another_kind_equal_the_oracle():
    """NaFlex positions, no head after the text tower, and an activation of its own in each."""
    changes = {
        "text": dataclasses.replace(SIZES["image"], depth=1),
        "text_head": False,
        "naflex": True,
    }
    config = siglip(**SIZES | changes).with_activations("gelu_exact", "gelu_tanh")
    rng = np.random.default_rng(3)
    values = {
        path: (0.2 * rng.standard_normal(shape)).astype(np.float32)
        for path, shape in parameter_shapes(config).items()
    }
    tokenizer = Tokenizer(b"unused", seeded.TEXT_LENGTH)
    model = tower_model("other", config, values, tokenizer, 6 * seeded.PATCH, "float32", {})
    image, text = oracle.under(values, "image"), oracle.under(values, "text")
    grid = np.asarray([(2, 6)], np.int32)
    ours = jax.jit(model.embed_images)(values, _patches()[:1, :12], grid)[0]
    position = jax.image.resize(image["position"], (2, 6, 64), "linear", antialias=True)
    args = _patches()[0, :12], np.asarray(position).reshape(12, -1), image
    other = oracle.image_tower(*args, "gelu_tanh")
    np.testing.assert_allclose(ours, oracle.image_tower(*args, "gelu_exact"), atol=2e-5, rtol=1e-5)
    assert np.abs(ours - other).max() > 1e-4
    tokens = seeded.tokens()[:1]
    ours = jax.jit(model.embed_texts)(values, tokens)[0]
    expected = oracle.text_tower(tokens[0], text, "gelu_tanh")
    np.testing.assert_allclose(ours, expected, atol=1e-5, rtol=1e-5)
    assert np.abs(ours - oracle.text_tower(tokens[0], text, "gelu_exact")).max() > 5e-5


def test_towers_of_different_widths_need_a_head():
    with pytest.raises(
        ValueError, match="text tower's width=48 must be that of the embeddings, 64"
    ):
        siglip(**SIZES, text_head=False)


@pytest.mark.parametrize("value", [1e6, -1e6, 0.0])
def test_tokens_beyond_an_image_never_count(value):
    padded = embed(filled_beyond(value))
    assert np.isfinite(padded).all()
    np.testing.assert_allclose(padded, embed(_patches()), atol=1e-6)


def test_images_of_a_batch_do_not_mix():
    changed = _patches().copy()
    changed[1:] = changed[1:][::-1] * 0.5
    np.testing.assert_array_equal(embed(changed)[0], embed(_patches())[0])
    assert np.abs(embed(changed)[1:] - embed(_patches())[1:]).max() > 0.1


def test_the_order_of_the_patches_counts():
    swapped = _patches().copy()
    swapped[0, [0, 35]] = swapped[0, [35, 0]]
    assert np.abs(embed(swapped)[0] - embed(_patches())[0]).max() > 0.01


def test_the_shape_of_the_grid_counts_not_only_its_size():
    images, _ = functions()
    grids = np.asarray([(6, 6), (6, 2), (1, 1), (3, 6)], np.int32)
    turned = np.asarray(images(_patches(), grids))
    difference = np.abs(turned - embed(_patches())).max(axis=1)
    assert difference[[1, 3]].min() > 0.01
    assert difference[[0, 2]].max() == 0


@pytest.mark.parametrize(("dtype", "least"), [("bfloat16", 0.999), ("float16", 0.99999)])
def test_short_dtypes_are_close_to_float32(dtype, least):
    images, texts = (np.asarray(f) for f in (embed(_patches(), dtype), _texts(dtype)))
    for low, full in ((images, embed(_patches())), (texts, _texts("float32"))):
        assert low.dtype == np.float32
        assert np.abs(low - full).max() > 0  # it was computed in another precision
        cosine = (low * full).sum(axis=1)
        cosine /= np.linalg.norm(low, axis=1) * np.linalg.norm(full, axis=1)
        assert cosine.min() > least


def test_sums_beyond_float16_are_kept():
    """Blocks of large networks add up to more than 65,504, their norms are of order one."""
    large = dict(parameters())
    for tower in ("image", "text"):
        name = f"{tower}.encoder.blocks.mlp.down.bias"
        large[name] = large[name].copy()
        large[name][:, ::2] = 50_000  # in every block; one alone would fit
        large[name][:, 1::2] = -50_000
    assert len(large[name]) > 1
    given = Tokenizer(b"unused", seeded.TEXT_LENGTH), seeded.PATCH * seeded.NATIVE_GRID
    found = {}
    for dtype in ("float32", "float16"):
        model = tower_model("small", CONFIG, large, *given, dtype, {})
        images = jax.jit(model.embed_images)(
            model.parameters, _patches(), np.asarray(GRIDS, np.int32)
        )
        texts = jax.jit(model.embed_texts)(model.parameters, seeded.tokens())
        found[dtype] = [np.asarray(images), np.asarray(texts)]
    for full, low in zip(*found.values(), strict=True):
        assert np.isfinite(low).all()
        assert np.abs(low - full).max() < 1e-2 * np.abs(full).max()
    x = jnp.zeros((1, 1, 4), jnp.bfloat16)
    assert layers.residual(x, jnp.bfloat16).dtype == jnp.bfloat16


def test_bfloat16_matrices_are_stored_as_such_without_changing_a_bit():
    tokenizer = Tokenizer(b"unused", seeded.TEXT_LENGTH)
    side = seeded.PATCH * seeded.NATIVE_GRID
    model = tower_model("small", CONFIG, parameters(), tokenizer, side, "bfloat16", {})
    stored = {str(value.dtype) for path, value in model.parameters.items() if "kernel" in path}
    assert stored == {"bfloat16"}
    assert model.parameters["image.position"].dtype == np.float32
    grid = np.asarray(GRIDS, np.int32)
    images, texts = jax.jit(model.embed_images), jax.jit(model.embed_texts)
    np.testing.assert_array_equal(
        images(model.parameters, _patches(), grid), images(parameters(), _patches(), grid)
    )
    np.testing.assert_array_equal(
        texts(model.parameters, seeded.tokens()), texts(parameters(), seeded.tokens())
    )


def _texts(dtype: str) -> np.ndarray:
    return np.asarray(functions(dtype)[1](seeded.tokens()))


def test_both_towers_give_the_image_towers_width():
    assert CONFIG.embedding_dim == seeded.IMAGE["width"] != seeded.TEXT["width"]
    assert embed(_patches()).shape == (len(GRIDS), CONFIG.embedding_dim)
    assert _texts("float32").shape == (len(seeded.tokens()), CONFIG.embedding_dim)
