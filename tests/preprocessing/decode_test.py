"""Pixels: the official preprocessing, against plain Pillow and numpy."""

import io
import math
import zlib

import jax
import numpy as np
import PIL
import pytest
from PIL import Image, ImageOps

from ilias_jax.model import Preprocessing
from ilias_jax.preprocessing.decode import (
    CanvasImage,
    DecodeError,
    centred_padding,
    decode,
    jpeg_to_patches,
    resize,
    resized_size,
    rows_come_first,
    to_canvas_image,
    to_patches,
)
from ilias_jax.preprocessing.resize import canvas_to_patches, normalize_patches, patch_grid

MEAN, STD = (0.2, 0.5, 0.7), (0.3, 0.9, 0.15)
ORIENTATION = 0x0112
BICUBIC = Image.Resampling.BICUBIC


def noise(height: int, width: int, seed: int = 0, channels: int = 3) -> np.ndarray:
    shape = (height, width, channels)
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


def encoded(image: Image.Image, form: str = "PNG", orientation: int | None = None) -> bytes:
    """Encoded image, without loss by default."""
    exif = Image.Exif() if orientation is None else exif_of(orientation)
    buffer = io.BytesIO()
    image.save(buffer, form, exif=exif)
    return buffer.getvalue()


def exif_of(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return exif


def for_canvas(data: bytes, resolution: int, patch: int, canvas: int, turn: bool) -> CanvasImage:
    return to_canvas_image(decode(data, turn), Preprocessing(resolution, patch), canvas)


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


def as_reference(data: bytes, exif_transpose: bool) -> np.ndarray:
    """What the official toolkit decodes: RGB, then the EXIF orientation of core images."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    return np.asarray(ImageOps.exif_transpose(image) if exif_transpose else image)


def turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """What a viewer shows for stored pixels with an EXIF orientation (Exif 2.3, table 6)."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels


@pytest.mark.parametrize("form", ["PNG", "JPEG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns_core_images_alone(orientation: int, form: str) -> None:
    data = encoded(Image.fromarray(noise(20, 30)), form, orientation)
    stored = as_reference(data, exif_transpose=False)
    upright = turned(stored, orientation)
    np.testing.assert_array_equal(upright, as_reference(data, exif_transpose=True))
    for turn, expected in ((False, stored), (True, upright)):
        np.testing.assert_array_equal(np.asarray(decode(data, turn)), expected)
        picture = for_canvas(data, 64, 16, 64, turn)
        np.testing.assert_array_equal(picture.pixels, expected)
        assert picture.size == jpeg_to_patches(data, 64, 16, turn).size
    assert picture.size == ((64, 42) if orientation >= 5 else (42, 64))


def test_images_without_exif_are_left_alone() -> None:
    image = Image.fromarray(noise(20, 30))
    np.testing.assert_array_equal(np.asarray(decode(encoded(image), exif_transpose=True)), image)


def jpeg(mode: str = "RGB", shape: tuple[int, int] = (60, 80), **options) -> bytes:
    """A JPEG of a picture that JPEG keeps well enough to tell pixels apart."""
    ramp = np.add.outer(3 * np.arange(shape[0]), 2 * np.arange(shape[1]))[..., None] + [0, 40, 90]
    buffer = io.BytesIO()
    Image.fromarray((ramp % 256).astype(np.uint8)).convert(mode).save(buffer, "JPEG", **options)
    return buffer.getvalue()


ODD = {
    "grey": jpeg("L"),
    "CMYK": jpeg("CMYK"),
    "progressive": jpeg(progressive=True, quality=95),
    "not subsampled": jpeg(subsampling=0),
    "thin": jpeg(shape=(1, 400)),
    "tall": jpeg(shape=(400, 1)),
    "one pixel": jpeg(shape=(1, 1)),
    "several chunks": jpeg(shape=(700, 900), quality=100),
    "PNG with a palette": encoded(Image.fromarray(noise(24, 32)).convert("P")),
    "PNG with alpha": encoded(Image.fromarray(noise(24, 32, channels=4), "RGBA")),
    "PNG with grey and alpha": encoded(Image.fromarray(noise(24, 32)).convert("LA")),
    "PNG of 16 bits": encoded(Image.fromarray(noise(24, 32)[..., 0].astype(np.uint16) * 257)),
    "PNG of 1 bit": encoded(Image.fromarray(noise(24, 32)).convert("1")),
    "GIF": encoded(Image.fromarray(noise(24, 32)), "GIF"),
    "WebP": encoded(Image.fromarray(noise(24, 32)), "WEBP"),
    "bytes after the end": jpeg() + b"more",
    "bytes lost before the end": jpeg()[:-2] + b"\xff\xd9",
}


@pytest.mark.parametrize("turn", [False, True])
@pytest.mark.parametrize("name", ODD)
def test_odd_images_are_decoded_as_by_the_reference(name: str, turn: bool) -> None:
    expected = as_reference(ODD[name], turn)
    image = decode(ODD[name], turn)
    assert (image.mode, image.size) == ("RGB", expected.shape[1::-1])
    np.testing.assert_array_equal(np.asarray(image), expected)
    picture = for_canvas(ODD[name], 64, 16, 1024, turn)
    if not rows_come_first(image.size, picture.size[::-1]):
        np.testing.assert_array_equal(picture.pixels, expected)
    patches = jpeg_to_patches(ODD[name], 64, 16, turn)
    assert (picture.size, picture.extent) == (patches.size, patches.extent)


def official_tensor(data: bytes, resolution: int, patch: int, turn: bool) -> np.ndarray:
    """Slow oracle: the toolkit's whole preprocessing of one image; [T, patch * patch * 3]."""
    image = Image.fromarray(as_reference(data, turn))
    width, height = image.size
    ratio = float(height) / float(width)
    height = max(1, int(resolution * ratio) if ratio <= 1 else resolution)
    width = max(1, int(resolution / ratio) if ratio > 1 else resolution)
    return official_patches(np.asarray(image.resize((width, height))), patch)


@pytest.mark.parametrize(("resolution", "patch"), [(96, 16), (100, 14)])
def test_preprocessing_is_the_toolkits_from_bytes_to_patches(resolution: int, patch: int) -> None:
    """With the resize on the host and with it on the device."""
    grid = math.ceil(resolution / patch)
    names = [name for name in ODD if name != "several chunks"]
    names += [f"turned {orientation}" for orientation in (3, 6)]
    data = [ODD[name] for name in names[:-2]]
    data += [jpeg(exif=exif_of(orientation)) for orientation in (3, 6)]
    pictures = [for_canvas(one, resolution, patch, 400, True) for one in data]
    canvas = np.full((len(data), 400, 400, 3), 99, np.uint8)
    for row, one in zip(canvas, pictures, strict=True):
        row[: one.pixels.shape[0], : one.pixels.shape[1]] = one.pixels
    source = np.array([one.pixels.shape[:2] for one in pictures], np.int32)
    size = np.array([one.size for one in pictures], np.int32)
    program = jax.jit(canvas_to_patches, static_argnums=(3, 4, 5))
    on_device = program(canvas, source, size, grid * grid, grid, patch)
    found = np.asarray(normalize_patches(on_device, size, patch, MEAN, STD))
    for name, one, row, patches in zip(names, data, found, np.asarray(on_device), strict=True):
        expected = official_tensor(one, resolution, patch, turn=True)
        on_host = jpeg_to_patches(one, resolution, patch, True)
        np.testing.assert_array_equal(patches[: len(expected)], on_host.pixels, name)
        np.testing.assert_allclose(
            row[: len(expected)], expected, rtol=1e-5, atol=1e-6, err_msg=name
        )
        assert not row[len(expected) :].any(), name


def test_a_picture_is_resized_on_the_host_only_if_it_must_be() -> None:
    for shape in ((300, 400), (400, 300), (401, 100), (100, 401), (300, 120), (300, 200)):
        image = Image.fromarray(noise(*shape))
        picture = to_canvas_image(image, Preprocessing(200, 16), 400)
        is_kept = max(shape) <= 400 and shape != (300, 120)  # 180 columns lost would be too few
        expected = np.asarray(image) if is_kept else resize(image, 200)
        np.testing.assert_array_equal(picture.pixels, expected, str(shape))
        assert picture.size == resize(image, 200).shape[:2]


def test_order_of_pillows_passes_is_known() -> None:
    """The host hands an image to the device only if Pillow resizes its columns first."""
    rng = np.random.default_rng(0)
    orders = []
    for seed in range(300):
        height, width, to_height, to_width = (int(side) for side in rng.integers(2, 100, 4))
        image = Image.fromarray(noise(height, width, seed))
        columns, rows = (
            image.resize(size, BICUBIC).resize((to_width, to_height), BICUBIC)
            for size in ((to_width, height), (width, to_height))
        )
        found = image.resize((to_width, to_height), BICUBIC)
        if columns.tobytes() != rows.tobytes():
            orders.append(rows_come_first(image.size, found.size))
            if int(PIL.__version__.split(".")[0]) >= 13:
                assert found.tobytes() == (rows if orders[-1] else columns).tobytes()
            elif not orders[-1]:
                assert found.tobytes() == columns.tobytes()
    assert 30 < sum(orders) < len(orders) - 30


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
