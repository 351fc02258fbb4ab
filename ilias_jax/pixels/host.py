"""Host side of the pixels: JPEG bytes to resized uint8 patches.

The official preprocessing (ilias protocol, "Image side"): convert to RGB, longest side to R, the
other side truncated to an integer and at least 1, Pillow's bicubic resize, no crop. Normalisation
and zero padding follow on the device (`pixels.device`), which needs only the image's size.
"""

import dataclasses
import io

import numpy as np
from PIL import Image, ImageOps


@dataclasses.dataclass(frozen=True)
class Patches:
    """One image cut into patches.

    Attributes:
        pixels: [rows x columns, patch x patch x 3] row-major. uint8: pixels outside of the image
            are 0 and must be masked by `size`. float32: normalised, and 0 outside.
        size: (height, width) of the resized image in pixels, before padding.
    """

    pixels: np.ndarray
    size: tuple[int, int]


class DecodeError(ValueError):
    """The bytes are no image that Pillow can decode; the message says why."""


def decode(jpeg: bytes, exif_transpose: bool) -> Image.Image:
    """Decodes JPEG bytes to an RGB image.

    Args:
        jpeg: the encoded image.
        exif_transpose: whether to follow the EXIF orientation (core images) or not (distractors).

    Raises:
        DecodeError: the bytes are no image, are truncated, or claim an absurd size.
        MemoryError: the machine has no room for it.
    """
    try:
        image = Image.open(io.BytesIO(jpeg)).convert("RGB")
        return ImageOps.exif_transpose(image) if exif_transpose else image
    except MemoryError:
        raise  # the machine's fault, not the image's
    except Exception as error:  # Pillow's parsers let through whatever damaged bytes trip
        raise DecodeError(f"{type(error).__name__}: {error}") from error


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
