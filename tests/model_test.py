import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ilias_jax.errors import UserError
from ilias_jax.model import file_sha256, parameters_sha256, to_images
from ilias_jax.preprocessing.decode import to_patches
from ilias_jax.preprocessing.resize import normalize_patches, patch_grid

TREE = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": {"c": np.ones(3, np.float32)}}


@pytest.mark.parametrize(
    "other",
    [
        {**TREE, "a": TREE["a"] + np.float32(1e-6)},
        {**TREE, "a": TREE["a"].reshape(3, 2)},
        {**TREE, "a": TREE["a"].view(np.int32)},
        {"a": TREE["a"]},
        {**TREE, "d": np.zeros(0, np.float32)},
        {"a": TREE["b"]["c"], "b": TREE["a"]},
    ],
    ids=["value", "shape", "dtype", "fewer", "empty array more", "order"],
)
def test_other_weights_have_another_hash(other):
    assert parameters_sha256(other) != parameters_sha256(TREE)


def test_the_same_weights_have_one_hash_wherever_they_are():
    usual = parameters_sha256(TREE)
    assert len(usual) == 64
    assert parameters_sha256(jax.tree.map(jnp.asarray, TREE)) == usual
    turned = {**TREE, "a": np.asfortranarray(TREE["a"])}
    assert parameters_sha256(turned) == usual
    assert parameters_sha256({"kernel": TREE["a"], "scale": TREE["b"]}) == usual  # names may change


def test_states_of_nnx_with_random_keys_and_half_precision_are_hashed():
    def state(seed, dtype=jnp.float32):
        return nnx.state(nnx.Dropout(0.5, rngs=nnx.Rngs(seed))), jnp.ones(3, dtype)

    assert parameters_sha256(state(0)) == parameters_sha256(state(0))
    assert parameters_sha256(state(0)) != parameters_sha256(state(1))
    assert parameters_sha256(state(0)) != parameters_sha256(state(0, jnp.bfloat16))


def test_a_scalar_is_hashed():
    assert parameters_sha256(np.float32(1)) != parameters_sha256(np.ones(1, np.float32))


def test_no_weights_at_all_identify_nothing():
    with pytest.raises(UserError, match="hold no arrays, so they identify no model"):
        parameters_sha256({"layers": []})


def test_a_file_is_hashed(tmp_path):
    (tmp_path / "file").write_bytes(b"abc")
    assert file_sha256(tmp_path / "file").startswith("ba7816bf")
    assert file_sha256(str(tmp_path / "file")) == file_sha256(tmp_path / "file")


MEAN, STD = (0.5, 0.4, 0.3), (0.5, 0.25, 0.2)


def _square(image: np.ndarray, length: int, top: int, left: int) -> np.ndarray:
    """The normalised image on a square of zeros, by slicing."""
    height, width, _ = image.shape
    square = np.zeros((length, length, 3), np.float32)
    normal = (image.astype(np.float32) / 255 - np.float32(MEAN)) / np.float32(STD)
    square[top : top + height, left : left + width] = normal
    return square


def _through_patches(images, side, patch_size) -> np.ndarray:
    """The way a model gets the images: patches padded to one length, then `to_images`."""
    cut = [to_patches(image, patch_size) for image in images]
    pixels = np.zeros((len(cut), side * side, patch_size**2 * 3), np.uint8)
    for row, one in zip(pixels, cut, strict=True):
        row[: len(one.pixels)] = one.pixels
        row[len(one.pixels) :] = 77  # what lies beyond an image's grid must not show
    size = np.array([one.size for one in cut], np.int32)

    @jax.jit
    def run(pixels, size):
        normal = normalize_patches(pixels, size, patch_size, MEAN, STD)
        return to_images(normal, patch_grid(size, patch_size), side, patch_size)

    return np.asarray(run(pixels, size))


@pytest.mark.parametrize(("side", "patch_size"), [(4, 16), (7, 8), (1, 64), (3, 14), (5, 7)])
def test_images_of_any_aspect_are_in_the_middle_of_the_square(side, patch_size):
    rng = np.random.default_rng(0)
    length = side * patch_size
    sizes = [
        (length, length),
        (length, 1),
        (3, length),
        (length - 1, length // 2),
        (length // 3, 5),
    ]
    images = [rng.integers(0, 256, (*size, 3), np.uint8) for size in sizes]
    found = _through_patches(images, side, patch_size)
    for image, square in zip(images, found, strict=True):
        free = [length - image.shape[0], length - image.shape[1]]
        if patch_size % 2 == 0:
            top, left = free[0] // 2, free[1] // 2
        else:  # to within a pixel: where the image begins is seen, the rest must follow
            visible = np.argwhere((square != 0).any(axis=2))
            top, left = visible.min(axis=0)
            assert abs(2 * top - free[0]) <= 2 and abs(2 * left - free[1]) <= 2
        np.testing.assert_allclose(square, _square(image, length, top, left), atol=1e-6)


def test_the_type_of_the_pixels_is_kept():
    pixels = jax.ShapeDtypeStruct((2, 4, 12), "bfloat16")
    grid = jax.ShapeDtypeStruct((2, 2), "int32")
    out = jax.eval_shape(lambda p, g: to_images(p, g, 2, 2), pixels, grid)
    assert (out.shape, out.dtype) == ((2, 4, 4, 3), "bfloat16")
