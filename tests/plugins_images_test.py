import jax
import numpy as np
import pytest

from ilias_jax.pixels.device import normalize_patches, patch_grid
from ilias_jax.pixels.host import to_patches
from ilias_jax.plugins import to_images

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
