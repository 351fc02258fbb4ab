"""The resize on the device: Pillow's pixels, whatever the shape, the canvas and the devices."""

import functools

import jax
import numpy as np
import pytest
from PIL import Image

from ilias_jax.mesh import make_mesh, partitioned
from ilias_jax.model import Preprocessing
from ilias_jax.preprocessing.decode import CanvasImage, resize, to_canvas_image, to_patches
from ilias_jax.preprocessing.resize import (
    CPU_PARTS,
    MATRIX_UNIT_PARTS,
    axis_weights,
    canvas_to_patches,
    levels,
)

BICUBIC = Image.Resampling.BICUBIC
SIDE = 160  # of the canvas in most tests
NUM_SHAPES = 200

resized = jax.jit(canvas_to_patches, static_argnums=(3, 4, 5))
weights_of = jax.jit(axis_weights, static_argnums=(3, 4))


def picture(height: int, width: int, seed: int) -> np.ndarray:
    """[H, W, 3] uint8: noise, black and white, smooth or one colour, by turns."""
    rng = np.random.default_rng(seed)
    noise = rng.integers(0, 256, (height, width, 3)).astype(np.uint8)
    ramp = np.add.outer(np.arange(height), np.arange(width))[..., None] * [1, 2, 3]
    kinds = (noise, noise // 128 * 255, ramp.astype(np.uint8), np.full_like(noise, noise[0, 0]))
    return kinds[seed % 4]


def on_canvas(pictures: list[np.ndarray], side: int, rest: int = 77) -> np.ndarray:
    """[B, side, side, 3] with the pictures in the corner; the rest is `rest`."""
    canvas = np.full((len(pictures), side, side, 3), rest, np.uint8)
    for row, one in zip(canvas, pictures, strict=True):
        row[: one.shape[0], : one.shape[1]] = one
    return canvas


def with_pillow(pixels: np.ndarray, target: tuple[int, int]) -> np.ndarray:
    """Slow oracle: Pillow's resize, columns first, each axis by a call of its own."""
    wide = Image.fromarray(pixels).resize((target[1], pixels.shape[0]), BICUBIC)
    return np.asarray(wide.resize(target[::-1], BICUBIC))


def tokens(pixels: np.ndarray, patch: int, num_tokens: int) -> np.ndarray:
    """[T, patch * patch * 3] uint8, the patches and zeros after them."""
    patches = to_patches(pixels, patch).pixels
    return np.pad(patches, ((0, num_tokens - len(patches)), (0, 0)))


def shapes(num: int, longest: int) -> tuple[np.ndarray, np.ndarray]:
    """Sources and targets [num, 2] int32: random, and by turns one pixel, equal, doubled, halved."""
    rng = np.random.default_rng(5)
    source, target = rng.integers(1, SIDE + 1, (num, 2)), rng.integers(1, longest + 1, (num, 2))
    axis = np.arange(num) // 20 % 2
    source[np.arange(0, num, 20), axis[::20]] = 1
    target[np.arange(1, num, 20), axis[1::20]] = 1
    target[2::20] = np.minimum(source[2::20], longest)
    source[3::20] = (source[3::20] + 1) // 2
    target[3::20] = np.minimum(2 * source[3::20], longest)
    target[4::20] = np.minimum(target[4::20], SIDE // 2)
    source[4::20] = 2 * target[4::20]
    source[5::20], target[5::20] = (1, SIDE), (1, longest)
    return source.astype(np.int32), target.astype(np.int32)


@pytest.mark.parametrize(("patch", "grid"), [(16, 10), (14, 12)])
def test_random_shapes_up_and_down_equal_pillow(patch: int, grid: int) -> None:
    source, target = shapes(NUM_SHAPES, patch * grid)
    pictures = [picture(*shape, seed) for seed, shape in enumerate(source.tolist())]
    num_pixels, wrong = 0, {}
    for start in range(0, NUM_SHAPES, 50):
        part = slice(start, start + 50)
        canvas = on_canvas(pictures[part], SIDE)
        found = resized(canvas, source[part], target[part], grid * grid, grid, patch)
        for row, image in zip(np.asarray(found), range(start, start + 50), strict=True):
            size = tuple(target[image].tolist())
            expected = tokens(with_pillow(pictures[image], size), patch, grid * grid)
            num_pixels += size[0] * size[1]
            num_wrong = np.count_nonzero((row != expected).reshape(-1, 3).any(axis=-1))
            if num_wrong:
                wrong[pictures[image].shape[:2], size] = num_wrong
    rate = sum(wrong.values()) / num_pixels
    assert not wrong, f"{rate:.1e} of {num_pixels} pixels differ, by shape {wrong}"


@pytest.mark.parametrize(
    ("source", "target"),
    [(8192, 8192), (8192, 8191), (8191, 8192), (8192, 30), (500, 512), (500, 384), (128, 256)]
    + [(256, 128), (2, 8192), (1, 512), (400, 1), (7, 7), (3, 512), (1000, 128), (4, 512)],
)
def test_weights_of_an_axis_are_pillows_to_the_bit(source: int, target: int) -> None:
    line = np.random.default_rng(source).integers(0, 256, (1, source)).astype(np.uint8)
    expected = np.asarray(Image.fromarray(line).resize((target, 1), BICUBIC))[0]
    for first in (0, max(0, target // 2 - 16), max(0, target - 32)):
        sizes = (np.array([number], np.int32) for number in (source, target, -first))
        weights = np.asarray(weights_of(*sizes, 32, 8192)[0], np.float64)
        assert not weights[:, source:].any() and not weights[target - first :].any()
        # As many bits as float32 adds up: see the parts of the weights.
        assert 255 * np.abs(weights).sum(axis=1).max() * 2**15 < 2**24
        found = np.clip(np.floor(weights[:, :source] @ line[0] + 0.5), 0, 255)  # exact in float64
        real = expected[first : first + 32]
        np.testing.assert_array_equal(found[: len(real)], real)


@pytest.mark.parametrize("scale", [0.3, 1, 3, 16, 100])
@pytest.mark.parametrize("parts", [CPU_PARTS, MATRIX_UNIT_PARTS])
def test_no_sum_of_products_is_rounded(parts, scale: float) -> None:
    """White lines and noise, with the parts of either kind of device, against exact integers."""
    target = 32
    source = int(target * scale)
    sizes = (np.array([number], np.int32) for number in (source, target, 0))
    weights = np.asarray(weights_of(*sizes, 32, 8192))[:, :, :source]
    lines = np.random.default_rng(0).integers(0, 256, (1, 40, source)).astype(np.uint8)
    lines[:, :10] = lines[:, :10] // 128 * 255
    lines[:, 0] = 255
    units = lines[0].astype(np.int64) @ (weights[0].T * 2.0**22).astype(np.int64)
    expected = np.clip((units + 2**21) >> 22, 0, 255)
    found = np.asarray(levels("bys,bxs->byx", *parts, lines, weights))
    np.testing.assert_array_equal(found[0], expected)


def official(
    resolution: int, patch: int
) -> tuple[list[np.ndarray], list[CanvasImage], list[tuple]]:
    """The expected pixels, what the host makes of the images for a canvas of 512, their sizes."""
    sizes = [(375, 500), (500, 375), (500, 200), (1, 400), (400, 1), (512, 512), (700, 600)]
    sizes += [(500, 499), (3, 512), (512, 3), (90, 80), (513, 20)]
    images = [Image.fromarray(picture(*size, 4 * i)) for i, size in enumerate(sizes)]
    pictures = [to_canvas_image(image, Preprocessing(resolution, patch), 512) for image in images]
    return [resize(image, resolution) for image in images], pictures, sizes


@pytest.mark.parametrize(("resolution", "patch", "grid"), [(512, 16, 32), (384, 14, 28)])
def test_host_and_device_together_are_the_official_preprocessing(resolution, patch, grid) -> None:
    expected, pictures, sizes = official(resolution, patch)
    canvas = on_canvas([one.pixels for one in pictures], 512)
    source = np.array([one.pixels.shape[:2] for one in pictures], np.int32)
    target = np.array([one.size for one in pictures], np.int32)
    found = np.asarray(resized(canvas, source, target, grid * grid, grid, patch))
    for row, pixels, size in zip(found, expected, sizes, strict=True):
        np.testing.assert_array_equal(row, tokens(pixels, patch, grid * grid), str(size))


@functools.cache
def batch() -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """16 pictures with their sources and targets, at most 6 x 6 patches of 16."""
    source, target = shapes(16, 96)
    return [picture(*shape, 4 * i) for i, shape in enumerate(source.tolist())], source, target


def test_the_rest_of_the_canvas_does_not_count() -> None:
    pictures, *sizes = batch()
    black, white = (
        np.asarray(resized(on_canvas(pictures, SIDE, rest), *sizes, 36, 6, 16)) for rest in (0, 255)
    )
    assert black.any()
    np.testing.assert_array_equal(black, white)


def test_tokens_are_those_of_the_own_grid_whatever_their_number() -> None:
    pictures, source, target = batch()
    canvas = on_canvas(pictures, SIDE)
    few, many = (np.asarray(resized(canvas, source, target, num, 6, 16)) for num in (36, 50))
    np.testing.assert_array_equal(few, many[:, :36])
    grids = np.prod(-(-target // 16), axis=1)
    for row, length in zip(many, grids, strict=True):
        assert row[:length].any() and not row[length:].any()


def test_one_device_and_two_give_the_same_bits_without_transfers() -> None:
    pictures, *sizes = batch()
    results = []
    for num in (1, 2):
        mesh = make_mesh(devices=jax.devices()[:num])
        arrays = jax.device_put((on_canvas(pictures, SIDE), *sizes), partitioned(mesh))
        with jax.transfer_guard("disallow"):
            result = resized(*arrays, 36, 6, 16)
        assert len(result.sharding.device_set) == num
        text = resized.lower(*arrays, 36, 6, 16).compile().as_text()
        assert "all-" not in text and "collective-" not in text
        results.append(np.asarray(result))
    np.testing.assert_array_equal(*results)
