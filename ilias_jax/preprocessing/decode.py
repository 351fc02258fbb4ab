"""JPEG bytes to images for the device's resize, or to resized uint8 patches, on the host.

The official preprocessing (ilias protocol, "Image side"): convert to RGB, longest side to R, the
other side truncated to an integer and at least 1, Pillow's bicubic resize, no crop. The device can
do the resize (`preprocessing.resize`); what is left here then costs little more than the decoding.
Normalisation and zero padding follow on the device, which needs only the image's size.
"""

import dataclasses
import io
import re

import numpy as np
from PIL import ExifTags, Image

from ilias_jax.dataset.layout import IMAGE_FORMATS
from ilias_jax.model import Preprocessing

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclasses.dataclass(frozen=True, eq=False)
class Patches:
    """One image cut into patches, or whole.

    Attributes:
        pixels: [T, patch x patch x 3], T = rows x columns, row-major; of a whole image [H, W, 3].
            uint8: pixels outside of the image are 0 and must be masked by `size`. float32:
            normalised, and 0 outside.
        size: (height, width) of the resized image in pixels, before padding.
    """

    pixels: np.ndarray
    size: tuple[int, int]

    @property
    def extent(self) -> tuple[int, ...]:
        """What a batch must have room for: (T,), or (H, W)."""
        return self.pixels.shape[:-1]


@dataclasses.dataclass(frozen=True, eq=False)
class CanvasImage:
    """One image to be resized and cut into patches on the device.

    Attributes:
        pixels: [H, W, 3] uint8, read only.
        size: (height, width) in pixels after the official resize, before padding.
        extent: patches after the resize, (T,); of an image that stays whole its size.
        canvas: S, side of the square in which images of a batch lie; at least H and W.
    """

    pixels: np.ndarray
    size: tuple[int, int]
    extent: tuple[int, ...]
    canvas: int


class DecodeError(ValueError):
    """The bytes are no image that Pillow can decode; the message says why."""


def decode(jpeg: bytes, exif_transpose: bool) -> Image.Image:
    """Decodes JPEG bytes, or those of another format of `IMAGE_FORMATS`, to an RGB image.

    The EXIF orientation is followed for core images and not for distractors (`exif_transpose`).

    Raises:
        DecodeError: the bytes are no image, are truncated, or claim an absurd size.
        MemoryError: the machine has no room for it.
    """
    try:
        image = Image.open(io.BytesIO(jpeg), formats=IMAGE_FORMATS)
        if exif_transpose:
            # Pillow remembers EXIF that it failed to read as empty; the converted image reads anew.
            return _upright(image.convert("RGB"))
        if image.format not in ("JPEG", "MPO") or image.mode != "RGB":
            return image.convert("RGB")
        image.load()  # the usual JPEG: `convert` would copy its pixels
        return image
    except MemoryError:
        raise  # the machine's fault, not the image's
    except Exception as error:  # Pillow's parsers let through whatever damaged bytes trip
        # An object's address would differ from run to run.
        reason = re.sub(r"<(\S+) object at 0x[0-9a-f]+>", r"\1", str(error))
        raise DecodeError(f"{type(error).__name__}: {reason}") from error


def _upright(image: Image.Image) -> Image.Image:
    """As `ImageOps.exif_transpose`, which also writes the tags back, and fails for some.

    Tags that cannot be read turn nothing.
    """
    try:
        turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # Pillow's parser, as above
        return image
    return image if turn is None else image.transpose(turn)


def resized_size(width: int, height: int, resolution: int) -> tuple[int, int]:
    """(width, height) after the official resize of the longest side to `resolution`."""
    aspect = float(height) / float(width)
    if aspect <= 1:
        return resolution, max(1, int(resolution * aspect))
    return max(1, int(resolution / aspect)), resolution


def resize(image: Image.Image, resolution: int) -> np.ndarray:
    """Resizes by the official rule; returns [H, W, 3] uint8."""
    size = resized_size(*image.size, resolution)
    return np.asarray(image.resize(size, Image.Resampling.BICUBIC))


def centred_padding(length: int, patch_size: int) -> tuple[int, int]:
    """Pixels to add before and after `length` to reach a multiple of the patch size."""
    total = -length % patch_size
    return total // 2, total - total // 2


def to_patches(pixels: np.ndarray, patch_size: int) -> Patches:
    """Pads [H, W, 3] (uint8, float32) symmetrically to a patch multiple, cuts it into patches."""
    height, width, _ = pixels.shape
    padding = (centred_padding(height, patch_size), centred_padding(width, patch_size), (0, 0))
    padded = np.pad(pixels, padding)
    rows, columns = padded.shape[0] // patch_size, padded.shape[1] // patch_size
    grid = padded.reshape(rows, patch_size, columns, patch_size, 3).transpose(0, 2, 1, 3, 4)
    return Patches(grid.reshape(rows * columns, -1), (height, width))


def jpeg_to_patches(jpeg: bytes, resolution: int, patch_size: int, exif_transpose: bool) -> Patches:
    """Decodes, resizes and cuts one image; see `decode` for errors."""
    return to_patches(resize(decode(jpeg, exif_transpose), resolution), patch_size)


def prepared(pixels: np.ndarray, preprocessing: Preprocessing) -> Patches:
    """What the network gets of a resized image [H, W, 3], uint8 or float32.

    Raises DecodeError if it takes none so thin.
    """
    height, width, _ = pixels.shape
    _check_side(width, height, preprocessing)
    if preprocessing.whole:
        return Patches(pixels, (height, width))
    return to_patches(pixels, preprocessing.patch_size)


def _check_side(width: int, height: int, preprocessing: Preprocessing) -> None:
    if min(width, height) < preprocessing.min_side:
        raise DecodeError(
            f"too thin: {width} x {height} pixels after the resize, and the model takes no side "
            f"below {preprocessing.min_side}"
        )


def to_canvas_image(image: Image.Image, preprocessing: Preprocessing, canvas: int) -> CanvasImage:
    """Prepares an RGB image for the resize on the device.

    An image that the canvas cannot hold, or that Pillow resizes in an order that the device does
    not follow, is resized here and not again there: either way the pixels are Pillow's.

    `canvas` is the side of the canvas in pixels, at least the resolution. Raises DecodeError as
    `prepared`.
    """
    patch_size = preprocessing.patch_size
    size = resized_size(*image.size, preprocessing.resolution)
    _check_side(*size, preprocessing)
    if max(image.size) > canvas or rows_come_first(image.size, size):
        image = image.resize(size, Image.Resampling.BICUBIC)
    # One copy less than np.asarray(image) makes.
    pixels = np.frombuffer(image.tobytes(), np.uint8).reshape(image.height, image.width, 3)
    columns, rows = (-(-length // patch_size) for length in size)
    extent = (rows, columns) if preprocessing.whole else (rows * columns,)
    return CanvasImage(pixels, size[::-1], extent, canvas)


def rows_come_first(source: tuple[int, int], target: tuple[int, int]) -> bool:
    """Whether Pillow 13 and later resizes rows first from one (width, height) to another.

    Earlier ones never do. It happens to images more than twice as high as wide that become smaller.
    """
    lost_columns, lost_rows = source[0] - target[0], source[1] - target[1]
    return lost_rows > max(0, 2 * lost_columns)
