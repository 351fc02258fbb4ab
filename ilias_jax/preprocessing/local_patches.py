"""Images for local descriptors: resized so that whole patches cover them, without padding.

Each axis becomes patch * max(round(s * side / patch), 1) pixels, s being the resolution over the
longest side of the uncropped image, so that the aspect changes a little. AMES's extractor resizes
with OpenCV, whose results are integer levels: by area where an axis shrinks, bilinear in its fixed
point where none does. ELViS's extractor resizes with torch's antialiased bicubic filter and does
not round.
"""

import functools
from collections.abc import Sequence
from typing import Literal

import numpy as np

from ilias_jax.dataset.layout import Box
from ilias_jax.model import Preprocessing
from ilias_jax.preprocessing.decode import Patches, decode, to_patches
from ilias_jax.preprocessing.resize import keys_kernel
from ilias_jax.preprocessing.views import union_of_boxes

Filter = Literal["area_linear", "bicubic"]
_Taps = tuple[np.ndarray, np.ndarray]  # [out, taps] source positions, and their weights
_POINT = 2048  # of the bilinear filter's fixed point
_SHARPNESS = -0.5  # a of the antialiased filter, of torch as of Pillow; see `keys_kernel`


def jpeg_to_local_patches(
    jpeg: bytes,
    boxes: Sequence[Box],
    preprocessing: Preprocessing,
    filter: Filter,
    exif_transpose: bool,
) -> Patches:
    """Decodes an image (see `decode`), cuts it to the union of the boxes, if any, and resizes it.

    Returns:
        Patches, uint8 of "area_linear", float32 and normalised of "bicubic".

    Raises:
        DecodeError: as `decode`.
        BoxError: the boxes leave nothing of the image.
    """
    image = decode(jpeg, exif_transpose)
    scale, patch_size = preprocessing.resolution / max(image.size), preprocessing.patch_size
    if boxes:
        image = image.crop(union_of_boxes(boxes, image.size))
    pixels = np.asarray(image)
    factors = [_factor(length, scale, patch_size) for length in pixels.shape[:2]]
    if filter == "area_linear":
        return to_patches(resize_like_opencv(pixels, factors), patch_size)
    size = [round(factor * side) for factor, side in zip(factors, pixels.shape, strict=False)]
    found = resize_like_torch(pixels.astype(np.float32) / np.float32(255), size)
    mean, std = (np.asarray(v, np.float32) for v in (preprocessing.mean, preprocessing.std))
    return to_patches((found - mean) / std, patch_size)


def _factor(length: int, scale: float, patch_size: int) -> float:
    """What a side is multiplied by, so that whole patches cover it; in the reference's order."""
    new = scale * length
    return scale / ((new / patch_size) / max(round(new / patch_size), 1.0))


def resize_like_opencv(pixels: np.ndarray, factors: Sequence[float]) -> np.ndarray:
    """Resizes [H, W, 3] uint8 by factors of height and width.

    By area if an axis shrinks, bilinear otherwise; both as OpenCV adds up.
    """
    size = tuple(round(f * side) for f, side in zip(factors, pixels.shape, strict=False))
    if size == pixels.shape[:2]:
        return pixels
    steps = [1 / factor for factor in factors]
    by_area = min(factors) < 1
    if by_area and min(steps) >= 1:
        taps = [_area_taps(*each) for each in zip(pixels.shape, size, steps, strict=False)]
        found = _separable(pixels, taps)
        halves_up = steps == [2, 2]  # a shortcut of OpenCV's
        return (np.floor(found + 0.5) if halves_up else np.rint(found)).astype(np.uint8)
    axes = zip(pixels.shape, size, factors, (by_area, by_area), (True, False), strict=False)
    return _fixed_point(pixels, [_linear_taps(*axis) for axis in axes])


@functools.lru_cache(maxsize=512)
def _area_taps(length: int, size: int, step: float) -> _Taps:
    """Shares of the source pixels that each result covers."""
    low = np.arange(size) * step
    high = np.minimum(low + step, length)
    width = np.minimum(step, length - low)
    first = np.floor(low).astype(np.int64)
    at = first[:, None] + np.arange(int(np.ceil(step)) + 1)
    covered = np.minimum(at + 1, high[:, None]) - np.maximum(at, low[:, None])
    covered[covered < 1e-3] = 0  # as OpenCV leaves out slivers
    return np.minimum(at, length - 1), covered / width[:, None]


@functools.lru_cache(maxsize=512)
def _linear_taps(length: int, size: int, factor: float, by_area: bool, is_rows: bool) -> _Taps:
    """The two neighbours of each result, their weights int64 in fixed point.

    By area, of an axis that grows while the other shrinks, a pixel keeps its level up to its edge.
    """
    step, number = 1 / factor, np.arange(size)
    if by_area:
        first = np.floor(number * step).astype(np.int64)
        after = ((number + 1) - (first + 1) * factor).astype(np.float32)
        share = np.where(after <= 0, np.float32(0), after - np.floor(after))
    else:
        place = ((number + 0.5) * step - 0.5).astype(np.float32)
        first = np.floor(place).astype(np.int64)
        share = place - first.astype(np.float32)
    if not is_rows:  # of rows both neighbours are the outermost one then, and both are added
        share = np.where((first < 0) | (first >= length - 1), np.float32(0), share)
    weights = np.stack([np.float32(1) - share, share], axis=1) * np.float32(_POINT)
    at = np.stack([first, first + 1], axis=1).clip(0, length - 1)
    return at, np.rint(weights).astype(np.int64)


def _fixed_point(pixels: np.ndarray, taps: Sequence[_Taps]) -> np.ndarray:
    """Bilinear as OpenCV adds it up: columns exactly, rows after dropping the last four bits."""
    (rows, down), (columns, across) = taps
    levels, near, far = pixels.astype(np.int64), columns[:, 0], columns[:, 1]
    wide = levels[:, near] * across[:, :1] + levels[:, far] * across[:, 1:]
    wide >>= 4
    parts = [(wide[rows[:, k]] * down[:, k, None, None]) >> 16 for k in (0, 1)]
    return ((parts[0] + parts[1] + 2) >> 2).clip(0, 255).astype(np.uint8)


def resize_like_torch(pixels: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """Resizes [H, W, 3] float32 to a size by the antialiased bicubic filter, float32."""
    axes = zip(pixels.shape, size, strict=False)
    return _separable(pixels, [_bicubic_taps(*axis) for axis in axes])


@functools.lru_cache(maxsize=512)
def _bicubic_taps(length: int, size: int) -> _Taps:
    """Keys' kernel (Keys, 1981), stretched by the step where an axis shrinks."""
    step = np.float32(length) / np.float32(size)  # its rounding shifts the centres
    stretch = max(step, np.float32(1))
    centre = (np.arange(size, dtype=np.float32) + np.float32(0.5)) * step
    first = np.maximum((centre - 2 * stretch + 0.5).astype(np.int64), 0)
    last = np.minimum((centre + 2 * stretch + 0.5).astype(np.int64), length)
    at = first[:, None] + np.arange(int((last - first).max()))
    distance = np.abs(at + 0.5 - centre[:, None]) / stretch
    weights = np.where(at < last[:, None], keys_kernel(distance, _SHARPNESS), 0.0)
    return np.minimum(at, length - 1), weights / weights.sum(axis=1, keepdims=True)


def _separable(pixels: np.ndarray, taps: Sequence[_Taps]) -> np.ndarray:
    """Weighted sums along columns, then along rows, in float32 and in the order of the taps."""
    (rows, down), (columns, across) = taps
    wide = np.zeros((len(pixels), len(columns), pixels.shape[2]), np.float32)
    for k in range(columns.shape[1]):
        wide += pixels[:, columns[:, k]] * across[None, :, k, None].astype(np.float32)
    found = np.zeros((len(rows), *wide.shape[1:]), np.float32)
    for k in range(rows.shape[1]):
        found += wide[rows[:, k]] * down[:, k, None, None].astype(np.float32)
    return found
