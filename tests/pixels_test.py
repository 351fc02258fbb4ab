"""Pixels: the official preprocessing, against plain Pillow and numpy."""

import io
import math
import zlib

import jax
import numpy as np
import pytest
from PIL import Image

from ilias_jax.pixels.device import normalize_patches, patch_grid
from ilias_jax.pixels.host import (
    DecodeError,
    centred_padding,
    decode,
    jpeg_to_patches,
    resize,
    resized_size,
    to_patches,
)

MEAN, STD = (0.2, 0.5, 0.7), (0.3, 0.9, 0.15)
ORIENTATION = 0x0112


def noise(height: int, width: int, seed: int = 0, channels: int = 3) -> np.ndarray:
    shape = (height, width, channels)
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


def encoded(image: Image.Image, form: str = "PNG", orientation: int | None = None) -> bytes:
    """Encoded image, without loss by default."""
    exif = Image.Exif()
    if orientation is not None:
        exif[ORIENTATION] = orientation
    buffer = io.BytesIO()
    image.save(buffer, form, exif=exif)
    return buffer.getvalue()


def official_patches(pixels: np.ndarray, patch: int) -> np.ndarray:
    """Slow oracle: to [0, 1], normalise, pad with zeros, cut; [T, patch * patch * 3] float32."""
    tensor = pixels.astype(np.float32) / 255
    normal = (tensor - np.array(MEAN, np.float32)) / np.array(STD, np.float32)
    height, width, _ = normal.shape
    pads = []
    for length in (height, width):
        missing = math.ceil(length / patch) * patch - length
        pads.append((missing // 2, missing - missing // 2))
    padded = np.pad(normal, [*pads, (0, 0)])
    cut = [
        padded[y : y + patch, x : x + patch].ravel()
        for y in range(0, padded.shape[0], patch)
        for x in range(0, padded.shape[1], patch)
    ]
    return np.stack(cut)


@pytest.mark.parametrize(
    ("size", "resolution", "expected"),
    [
        ((500, 375), 512, (512, 384)),
        ((375, 500), 512, (384, 512)),
        ((500, 333), 512, (512, 340)),  # 340.99: truncated, not rounded
        ((333, 500), 512, (340, 512)),
        ((400, 400), 384, (384, 384)),
        ((1, 400), 128, (1, 128)),
        ((400, 1), 128, (128, 1)),
        ((1, 1), 128, (128, 128)),
        ((1000, 3), 128, (128, 1)),
        ((3, 1000), 128, (1, 128)),
        ((401, 400), 400, (400, 399)),
    ],
)
def test_resized_sizes(size: tuple[int, int], resolution: int, expected: tuple[int, int]) -> None:
    assert resized_size(*size, resolution) == expected
    pixels = resize(Image.new("RGB", size, (10, 20, 30)), resolution)
    assert pixels.shape == (expected[1], expected[0], 3)
    assert pixels.dtype == np.uint8


@pytest.mark.parametrize("resolution", [384, 512, 724])
def test_no_resized_size_breaks_the_rule(resolution: int) -> None:
    for seed in range(300):
        rng = np.random.default_rng(seed)
        width, height = (int(side) for side in rng.integers(1, 501, 2))
        found = resized_size(width, height, resolution)
        assert max(found) == resolution and min(found) >= 1
        exact = min(width, height) / max(width, height) * resolution
        assert exact - 1 < min(found) <= max(exact, 1)
        assert (found[0] >= found[1]) == (width >= height) or min(found) == resolution


@pytest.mark.parametrize("size", [(60, 40), (400, 300)])
def test_resize_is_pillows_default_without_crop(size: tuple[int, int]) -> None:
    image = Image.fromarray(noise(size[1], size[0]))
    expected = np.asarray(image.resize(resized_size(*size, 128)))
    np.testing.assert_array_equal(resize(image, 128), expected)


@pytest.mark.parametrize(
    ("length", "expected"), [(16, (0, 0)), (17, (7, 8)), (15, (0, 1)), (1, (7, 8)), (14, (1, 1))]
)
def test_padding_is_centred(length: int, expected: tuple[int, int]) -> None:
    assert centred_padding(length, 16) == expected


def test_pad_follows_normalisation_for_any_shape() -> None:
    rng = np.random.default_rng(0)
    shapes = [(1, 64), (64, 1), (1, 1), (64, 64), (63, 49), (48, 33)]
    shapes += [tuple(int(side) for side in rng.integers(1, 65, 2)) for _ in range(42)]
    for patch in (16, 14):
        items = [to_patches(noise(*shape, seed=i), patch) for i, shape in enumerate(shapes)]
        most = math.ceil(64 / patch) ** 2 + 3  # room that no image fills
        # Host pixels outside of an image must not count, whatever they are.
        batch = np.full((len(items), most, patch * patch * 3), 77, np.uint8)
        for row, item in zip(batch, items, strict=True):
            row[: len(item.pixels)] = item.pixels
        sizes = np.array([item.size for item in items], np.int32)
        assert sizes.tolist() == [list(shape) for shape in shapes]
        result = np.asarray(normalize_patches(batch, sizes, patch, MEAN, STD))
        grids = np.asarray(patch_grid(sizes, patch))
        for i, shape in enumerate(shapes):
            expected = official_patches(noise(*shape, seed=i), patch)
            assert len(expected) == np.prod(grids[i]) == len(items[i].pixels)
            found = result[i, : len(expected)]
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
            np.testing.assert_array_equal(found == 0, expected == 0)
            assert (result[i, len(expected) :] == 0).all()


def test_normalised_dtype_is_asked_for() -> None:
    item = to_patches(noise(20, 30), 16)
    size = np.array([item.size], np.int32)
    found = normalize_patches(item.pixels[None], size, 16, MEAN, STD, jax.numpy.bfloat16)
    assert found.dtype == jax.numpy.bfloat16


def turned(image: Image.Image, orientation: int) -> Image.Image:
    """The picture that a viewer shows for stored pixels with an EXIF orientation."""
    turns = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_270}
    turns |= {8: Image.Transpose.ROTATE_90, 2: Image.Transpose.FLIP_LEFT_RIGHT}
    return image.transpose(turns[orientation]) if orientation in turns else image


@pytest.mark.parametrize("orientation", [1, 2, 3, 6, 8])
def test_exif_turns_core_images_alone(orientation: int) -> None:
    image = Image.fromarray(noise(20, 30))
    data = encoded(image, orientation=orientation)
    np.testing.assert_array_equal(np.asarray(decode(data, exif_transpose=False)), image)
    upright = np.asarray(turned(image, orientation))
    np.testing.assert_array_equal(np.asarray(decode(data, exif_transpose=True)), upright)
    sizes = [jpeg_to_patches(data, 64, 16, turn).size for turn in (False, True)]
    assert sizes == [(42, 64), (64, 42) if orientation in (6, 8) else (42, 64)]


def test_images_without_exif_are_left_alone() -> None:
    image = Image.fromarray(noise(20, 30))
    np.testing.assert_array_equal(np.asarray(decode(encoded(image), exif_transpose=True)), image)


@pytest.mark.parametrize("mode", ["L", "CMYK", "P", "RGBA", "1"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    picture = Image.fromarray(noise(24, 32)).convert(mode)
    data = encoded(picture, "JPEG" if mode in ("L", "CMYK") else "PNG")
    image = decode(data, exif_transpose=True)
    assert (image.mode, image.size) == ("RGB", (32, 24))
    expected = Image.open(io.BytesIO(data)).convert("RGB")
    np.testing.assert_array_equal(np.asarray(image), np.asarray(expected))
    assert jpeg_to_patches(data, 64, 16, True).pixels.shape == (12, 768)


def with_exif_of_wrong_type() -> bytes:
    """A good JPEG whose EXIF holds text where Pillow packs a number when it turns the image."""
    data = encoded(Image.fromarray(noise(20, 30)), "JPEG", orientation=6)
    exif = b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\x00\x02"
    exif += b"\x01\x12\x00\x03\x00\x00\x00\x01\x00\x06\x00\x00"
    exif += b"\x01\x00\x00\x02\x00\x00\x00\x04abc\x00"
    exif += b"\x00\x00\x00\x00"
    start = data.index(b"\xff\xe1")
    end = start + 2 + int.from_bytes(data[start + 2 : start + 4], "big")
    block = b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif
    return data[:start] + block + data[end:]


def huge() -> bytes:
    """A PNG header that claims 40000 x 40000 pixels."""
    data = bytearray(encoded(Image.new("L", (4, 4))))
    data[16:24] = (40000).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    return bytes(data)


def test_damaged_bytes_are_a_decode_error() -> None:
    good = encoded(Image.fromarray(noise(60, 80)), "JPEG")
    for name, data in {
        "UnidentifiedImageError": b"this is no image",
        "cannot identify": b"",
        "truncated": good[: len(good) // 2],
        "DecompressionBombError": huge(),
    }.items():
        with pytest.raises(DecodeError, match=name):
            decode(data, exif_transpose=True)


def test_exif_that_pillow_cannot_write_again_is_a_decode_error() -> None:
    data = with_exif_of_wrong_type()
    assert decode(data, exif_transpose=False).size == (30, 20)
    with pytest.raises(DecodeError, match="error: required argument is not an integer"):
        decode(data, exif_transpose=True)
