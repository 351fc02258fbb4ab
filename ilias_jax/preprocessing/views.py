"""Test-time augmentation on the host: an image's views by box crop and mask, scales, rotations.

The official toolkit's options work on the normalised image before its padding to whole patches:
scaling by bicubic interpolation without antialiasing, then rotation within the frame of the image,
so that an image that is not square loses what leaves the frame and gets zeros (the mean colour)
where nothing arrives. This module gives the same pixels, float32, with three differences that
concern broken or contradictory input only:

- a side never shrinks below 1 pixel (the toolkit stops there);
- a box that begins outside of the image is clipped to it (the toolkit's mask counts a negative
  coordinate from the far side);
- with crop and mask together the mask is cropped like the image (the toolkit squeezes the mask of
  the whole image onto the crop).
"""

import functools
import math
from collections.abc import Sequence

import numpy as np

from ilias_jax.config import ViewsConfig
from ilias_jax.dataset.layout import Box
from ilias_jax.model import Preprocessing
from ilias_jax.preprocessing.decode import (
    CanvasImage,
    DecodeError,
    Patches,
    decode,
    prepared,
    resize,
    to_canvas_image,
)
from ilias_jax.preprocessing.resize import keys_kernel

_SHARPNESS = -0.75  # a of Keys' cubic kernel (Keys, 1981) as torch has it; Pillow has -0.5


class BoxError(DecodeError):
    """The boxes of an image leave nothing of it."""


def jpeg_to_views(
    jpeg: bytes,
    boxes: Sequence[Box],
    preprocessing: Preprocessing,
    views: ViewsConfig,
    exif_transpose: bool,
    canvas: int = 0,
) -> list[Patches | CanvasImage]:
    """Decodes an image (see `decode`) and prepares every view of it.

    The boxes are in pixels of the upright image; an image without any is taken whole. The canvas,
    from which the device resizes, has a side of at least the resolution; 0 to resize here.

    Returns:
        One image a view, scale by scale, in each rotation by rotation. float32 patches that are
        normalised, 0 outside of the image; or, if the image is the only view and nothing of it is
        masked, an image for the canvas, or without one uint8 patches.

    Raises:
        DecodeError: as `decode`, or the network takes none so thin.
        BoxError: the boxes leave nothing of the image.
    """
    image = decode(jpeg, exif_transpose)
    mask = box_mask(boxes, image.size[::-1]) if views.mask_outside_box and boxes else None
    if views.crop_to_box and boxes:
        left, top, right, bottom = union_of_boxes(boxes, image.size)
        image = image.crop((left, top, right, bottom))
        mask = None if mask is None else mask[top:bottom, left:right]
    if is_untouched(views) and canvas:
        return [to_canvas_image(image, preprocessing, canvas)]
    pixels = resize(image, preprocessing.resolution)
    if is_untouched(views):
        return [prepared(pixels, preprocessing)]
    normal = normalize(pixels, preprocessing.mean, preprocessing.std)
    if mask is not None:
        normal *= resize_nearest(mask, normal.shape[:2])[..., None]
    scaled = (rescale(normal, scale) for scale in views.scales)
    turned = (rotate(part, angle) for part in scaled for angle in views.rotations)
    return [prepared(part, preprocessing) for part in turned]


def is_untouched(views: ViewsConfig) -> bool:
    """Whether the pixels of the only view are those of the resized image."""
    return views.scales == (1.0,) and views.rotations == (0,) and not views.mask_outside_box


def _corners(boxes: Sequence[Box]) -> np.ndarray:
    """[N, 4] int64 left, top, right, bottom; coordinates and sides are cut to integers first."""
    whole = np.asarray(boxes, np.float64).astype(np.int64)
    return np.concatenate([whole[:, :2], whole[:, :2] + whole[:, 2:]], axis=1)


def union_of_boxes(boxes: Sequence[Box], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) of the smallest rectangle around all boxes, within the image.

    Raises BoxError if nothing of the image, of size (width, height), is inside.
    """
    corners = _corners(boxes)
    left, top = np.clip(corners[:, :2].min(axis=0), 0, size).tolist()
    right, bottom = np.clip(corners[:, 2:].max(axis=0), 0, size).tolist()
    if right <= left or bottom <= top:
        found = ", ".join(str(tuple(box)) for box in boxes)
        raise BoxError(
            f"leave nothing of its {size[0]} x {size[1]} pixels (x, y, width, height: {found}); "
            "mend them, or set views.crop_to_box=False"
        )
    return left, top, right, bottom


def box_mask(boxes: Sequence[Box], shape: tuple[int, int]) -> np.ndarray:
    """[H, W] bool, True inside of any box."""
    mask = np.zeros(shape, bool)
    for left, top, right, bottom in np.maximum(_corners(boxes), 0):
        mask[top:bottom, left:right] = True
    return mask


def resize_nearest(mask: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Resizes [H, W] to `shape` by the nearest neighbour as torch has it: floor(i * in / out)."""
    rows, columns = (
        np.minimum(_nearest(length, new), length - 1)
        for length, new in zip(mask.shape, shape, strict=True)
    )
    return mask[rows[:, None], columns]


def _nearest(length: int, new: int) -> np.ndarray:
    """Source positions in float32, whose rounding decides ties as it does in torch."""
    step = np.float32(length) / np.float32(new)
    return np.floor(np.arange(new, dtype=np.float32) * step).astype(np.int64)


def normalize(
    pixels: np.ndarray, mean: tuple[float, float, float], std: tuple[float, float, float]
) -> np.ndarray:
    """[H, W, 3] uint8 -> (pixel / 255 - mean) / std, float32."""
    scaled = pixels.astype(np.float32) / np.float32(255)
    return (scaled - np.asarray(mean, np.float32)) / np.asarray(std, np.float32)


def rescale(pixels: np.ndarray, scale: float) -> np.ndarray:
    """[H, W, C] float32 -> [max(1, floor(H * scale)), max(1, floor(W * scale)), C] float32.

    Bicubic interpolation without antialiasing; see `side_weights`.
    """
    if scale == 1:
        return pixels
    height, width, channels = pixels.shape
    rows, columns = side_weights(height, scale), side_weights(width, scale)
    vertical = (rows @ pixels.reshape(height, -1)).reshape(len(rows), width, channels)
    return np.einsum("xw,hwc->hxc", columns, vertical, optimize=True)


@functools.lru_cache(maxsize=4096)
def side_weights(length: int, scale: float) -> np.ndarray:
    """Weights [floor(length * scale), length] float32 that scale one axis, as torch does.

    Half-pixel centres, position (i + 0.5) / scale - 0.5 (by the factor asked for, not by the ratio
    of the sides), Keys' kernel with a = -0.75 over four pixels, border pixels repeated.
    """
    new = max(1, math.floor(length * scale))
    half, step = np.float32(0.5), np.float32(1 / scale)
    center = (np.arange(new, dtype=np.float32) + half) * step - half
    first = np.floor(center).astype(np.int64)
    weights = np.zeros((new, length), np.float32)
    for offset in (-1, 0, 1, 2):
        source = np.clip(first + offset, 0, length - 1)
        kernel = keys_kernel(np.abs(center - (first + offset)), _SHARPNESS)  # in float64
        np.add.at(weights, (np.arange(new), source), kernel.astype(np.float32))
    return weights


def rotate(pixels: np.ndarray, angle: int) -> np.ndarray:
    """Rotates [H, W, C] float32 about its centre within its own frame, angle 0, 90, 180 or 270.

    Counter-clockwise; what leaves the frame is lost, 0 where nothing arrives. For a quarter turn of
    an image whose sides differ by an odd number, pixel centres fall between pixels, and each value
    is the mean of the four around it (bilinear interpolation).
    """
    turned = np.rot90(pixels, angle // 90)
    height, width = pixels.shape[:2]
    return np.ascontiguousarray(_recentred(_recentred(turned, height, 0), width, 1))


def _recentred(pixels: np.ndarray, length: int, axis: int) -> np.ndarray:
    """Cuts or pads one axis with zeros to `length` about its centre, between pixels if need be."""
    offset = pixels.shape[axis] - length  # twice the distance
    if offset == 0:
        return pixels
    room = abs(offset) + 1
    padding = [(room, room) if i == axis else (0, 0) for i in range(pixels.ndim)]
    padded = np.pad(pixels, padding)
    before, after = (
        np.take(padded, np.arange(length) + room + shift, axis)
        for shift in (math.floor(offset / 2), math.ceil(offset / 2))
    )
    return (before + after) * np.float32(0.5)
