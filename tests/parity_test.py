"""Our towers against timm, open_clip and big_vision, whose outputs `make_parity_values.py` stored."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import parity_weights as seeded
import pytest

from ilias_jax.model import Model, Parameters
from ilias_jax.pixels.device import normalize_patches, patch_grid
from ilias_jax.pixels.host import Patches, jpeg_to_patches
from ilias_jax.towers import big_vision
from ilias_jax.towers.layers import Width
from ilias_jax.towers.load import siglip_model
from ilias_jax.towers.siglip import SiglipConfig, l2_normalize
from ilias_jax.towers.tokenizer import Tokenizer

VALUES = pathlib.Path(__file__).parent / "data" / "parity_siglip.npz"


@pytest.fixture(scope="module")
def values() -> dict[str, np.ndarray]:
    with np.load(VALUES, allow_pickle=False) as archive:
        return dict(archive)


def model(activation: str) -> Model:
    config = SiglipConfig(
        image=Width(**seeded.IMAGE),
        text=Width(**seeded.TEXT),
        patch_size=seeded.PATCH,
        native_grid=seeded.NATIVE_GRID,
        vocab_size=seeded.VOCAB,
        text_length=seeded.TEXT_LENGTH,
        activation=activation,
    )
    parameters = big_vision.from_arrays(seeded.weights(), config, "seeded weights")
    tokenizer = Tokenizer(b"unused", seeded.TEXT_LENGTH)
    return siglip_model(
        "small", config, parameters, tokenizer, max(seeded.RESOLUTIONS), "float32", {}
    )


@functools.cache
def image_embeddings(activation: str) -> dict[int, np.ndarray]:
    """All pictures at all resolutions through one batch: resolution -> [N, D], unnormalised."""
    small = model(activation)
    how, pictures = small.preprocessing, seeded.pictures()
    cut = [
        jpeg_to_patches(seeded.png(picture), resolution, how.patch_size, exif_transpose=True)
        for resolution in seeded.RESOLUTIONS
        for picture in pictures
    ]

    @jax.jit
    def forward(parameters: Parameters, patches: jax.Array, sizes: jax.Array) -> jax.Array:
        pixels = normalize_patches(patches, sizes, how.patch_size, how.mean, how.std)
        return small.embed_images(parameters, pixels, patch_grid(sizes, how.patch_size))

    vectors = np.asarray(forward(small.parameters, *pad_together(cut, how.max_side**2)))
    parts = vectors.reshape(len(seeded.RESOLUTIONS), len(pictures), -1)
    return dict(zip(seeded.RESOLUTIONS, parts, strict=True))


@functools.cache
def text_embeddings(activation: str) -> np.ndarray:
    """All texts: [N, D], unnormalised."""
    small = model(activation)
    return np.asarray(jax.jit(small.embed_texts)(small.parameters, jnp.asarray(seeded.tokens())))


def pad_together(cut: list[Patches], length: int) -> tuple[jax.Array, jax.Array]:
    """Pads with pixels of 255, which would show in the output if they were not ignored."""
    patches = np.full((len(cut), length, cut[0].pixels.shape[1]), 255, np.uint8)
    for row, image in zip(patches, cut, strict=True):
        row[: len(image.pixels)] = image.pixels
    return jnp.asarray(patches), jnp.asarray([image.size for image in cut], jnp.int32)


def assert_same(ours: np.ndarray, reference: np.ndarray) -> None:
    """Every vector points the same way, and differs little beside the other inputs' outputs.

    float32 gives about 4e-7 of the typical distance here, the other form of the GELU 8e-5.
    """
    assert ours.shape == reference.shape
    norms = np.linalg.norm(ours, axis=1) * np.linalg.norm(reference, axis=1)
    cosine = (ours * reference).sum(axis=1) / norms
    distance = np.linalg.norm(reference[:, None] - reference[None], axis=2)
    typical = distance[~np.eye(len(reference), dtype=bool)].mean()
    assert cosine.min() >= 0.99999
    assert np.abs(ours - reference).max() <= 1e-5 * typical


@pytest.mark.parametrize("resolution", seeded.RESOLUTIONS)
@pytest.mark.parametrize("activation", seeded.ACTIVATIONS)
def test_the_image_tower_equals_timms(values, activation, resolution):
    ours = image_embeddings(activation)[resolution]
    assert_same(ours, values[f"image_{activation}_{resolution}"])


@pytest.mark.parametrize("activation", seeded.ACTIVATIONS)
def test_the_text_tower_equals_open_clips(values, activation):
    assert_same(text_embeddings(activation), values[f"text_{activation}"])


def test_both_towers_equal_big_visions(values):
    native = image_embeddings("gelu_tanh")[seeded.PATCH * seeded.NATIVE_GRID]
    images = l2_normalize(jnp.asarray(native[values["big_vision_pictures"]]))
    assert_same(np.asarray(images), values["big_vision_image"])
    texts = l2_normalize(jnp.asarray(text_embeddings("gelu_tanh")))
    assert_same(np.asarray(texts), values["big_vision_text"])


def test_the_other_activation_would_be_noticed(values):
    for name in (f"image_{{}}_{resolution}" for resolution in seeded.RESOLUTIONS):
        with pytest.raises(AssertionError):
            assert_same(values[name.format("gelu_exact")], values[name.format("gelu_tanh")])
