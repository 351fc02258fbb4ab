"""Groups images of varied length into batches of a few fixed shapes, without losing one."""

import bisect
import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from ilias_jax.model import Preprocessing
from ilias_jax.preprocessing.decode import CanvasImage, Patches

PreparedImage = Patches | CanvasImage
Item = tuple[int, PreparedImage]  # row of the result, and its image

# An image waits for its batch to fill up while so many batches' worth of other images come.
PATIENCE = 64
# Shorter by longer side, by the images that a length for it saves: what cameras take (1:1, 4:3, 3:2
# and 16:9; an assumption, as no table of the official images' sizes is published), then the rest.
_SHAPES = ((1, 1), (3, 4), (2, 3), (9, 16), (1, 3), (7, 8), (4, 9), (1, 6))


@dataclasses.dataclass(frozen=True, eq=False)
class Batch:
    """One batch as it goes to the devices.

    Attributes:
        arrays: each with leading axis B. Of texts: tokens [B, L] int32. Of images in patches:
            patches [B, T, C] and sizes [B, 2] int32, padding is 0 and of size (1, 1). Of images for
            the device's resize: canvas [B, S, S, 3] uint8 with each image in its top left corner,
            sizes [B, 2] int32 in the canvas and after the resize, and a mask [B, T] bool of real
            tokens, whose shape tells the device T; padding is a black image of one pixel.
        rows: [B] int64 row of the result that every image or text belongs to, -1 for padding.
        owners: [B] int64 which result that is, where there are several.
        real_tokens: tokens of the images.
        computed_tokens: tokens that the devices compute, padding included.
    """

    arrays: tuple[np.ndarray, ...]
    rows: np.ndarray
    owners: np.ndarray
    real_tokens: int = 0
    computed_tokens: int = 0

    @property
    def mask(self) -> np.ndarray:
        """[B] bool, True for what is no padding."""
        return self.rows >= 0


def _assemble(images: Sequence[PreparedImage], length: int, batch_size: int) -> tuple[Any, ...]:
    size = _pairs([image.size for image in images], batch_size)
    if isinstance(images[0], Patches):
        shape, dtype = (batch_size, length, images[0].pixels.shape[1]), images[0].pixels.dtype
        patches = np.zeros(shape, dtype)
        for row, image in zip(patches, images, strict=False):
            row[: len(image.pixels)] = image.pixels
        return patches, size
    side = images[0].canvas
    canvas = np.empty((batch_size, side, side, 3), np.uint8)
    for square, image in zip(canvas, images, strict=False):
        height, width, _ = image.pixels.shape
        square[:height, :width] = image.pixels
    canvas[len(images) :, :1, :1] = 0
    counts = np.ones(batch_size, np.int64)
    counts[: len(images)] = [image.num_tokens for image in images]
    source = _pairs([image.pixels.shape[:2] for image in images], batch_size)
    return canvas, source, size, np.arange(length) < counts[:, None]


def _pairs(values: Sequence[tuple[int, ...]], batch_size: int) -> np.ndarray:
    padded = np.ones((batch_size, 2), np.int32)
    padded[: len(values)] = values
    return padded


def bucket_lengths(
    preprocessing: Preprocessing, num_buckets: int, max_scale: float = 1.0
) -> tuple[int, ...]:
    """Token counts to pad to, rising: those of the shapes that most images have, then any others.

    An image has s x n tokens, s being the patches of its longer side and n of its shorter. The
    first lengths are those of `_SHAPES`, so that what cameras take is not padded at all; further
    ones halve the widest step that is left.

    There are `num_buckets`, or fewer where there are no more; those of the largest view if its
    scale is `max_scale`.
    """
    longest, side = preprocessing.longest_at(max_scale), preprocessing.side_at(max_scale)
    pixels = [max(1, longest * part // whole) for part, whole in _SHAPES[:num_buckets]]
    shorter = {-(-length // preprocessing.patch_size) for length in pixels}
    while len(shorter) < min(num_buckets, side):
        steps = itertools.pairwise(sorted({0, *shorter}))
        low, high = max(steps, key=lambda step: (step[1] - step[0], step[1]))
        shorter.add((low + high) // 2)
    return tuple(side * count for count in sorted(shorter))


_Group = tuple[type, object, int]  # images of one kind and one padded length


class Packer:
    """Collects images of several owners by kind and shortest length that holds them.

    Which length an image gets depends on the image alone, and a batch always has the same number of
    rows, so that neither neighbours nor the number of devices change an image's result. Rare
    lengths fill up slowly; an image that has waited long leaves in a padded batch.

    Args:
        lengths: rising token counts; the last one must hold the largest image.
        batch_size: images of a batch.
        patience: an image waits at most until `patience * batch_size` others have come after it.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, patience: int = PATIENCE) -> None:
        self._lengths, self._batch_size = tuple(lengths), batch_size
        self._patience = patience * batch_size
        self._waiting: dict[_Group, list[tuple[int, int, PreparedImage]]] = {}
        self._since: dict[_Group, int] = {}  # in the order of arrival of each group's first image
        self._count = 0

    def add(self, item: Item, owner: int = 0) -> Iterator[Batch]:
        """Takes an item, of at most as many tokens as the last length; yields the batches due."""
        row, image = item
        index = bisect.bisect_left(self._lengths, image.num_tokens)
        length = self._lengths[index]  # an IndexError would be a bug of `bucket_lengths`
        kind = image.pixels.dtype if isinstance(image, Patches) else image.canvas
        group = type(image), kind, length
        waiting = self._waiting.setdefault(group, [])
        self._since.setdefault(group, self._count)
        waiting.append((owner, row, image))
        self._count += 1
        if len(waiting) == self._batch_size:
            yield self._take(group)
        while self._since and self._count - next(iter(self._since.values())) > self._patience:
            yield self._take(next(iter(self._since)))

    def flush(self) -> Iterator[Batch]:
        """Yields what is left, padded."""
        while self._since:
            yield self._take(next(iter(self._since)))

    def _take(self, group: _Group) -> Batch:
        owners, rows, images = zip(*self._waiting.pop(group), strict=True)
        del self._since[group]
        length, padding = group[-1], (-1,) * (self._batch_size - len(images))
        return Batch(
            _assemble(images, length, self._batch_size),
            np.array(rows + padding, np.int64),
            np.array(owners + padding, np.int64),
            sum(image.num_tokens for image in images),
            length * self._batch_size,
        )


def batch_items(items: Iterable[Item], lengths: Sequence[int], batch_size: int) -> Iterator[Batch]:
    """Batches of one owner's items; see `Packer`."""
    packer = Packer(lengths, batch_size)
    for item in items:
        yield from packer.add(item)
    yield from packer.flush()


def batch_rows(array: np.ndarray, batch_size: int) -> Iterator[Batch]:
    """Cuts [N, ...] into batches of `batch_size`; the last is padded by repeating its first row."""
    for start in range(0, len(array), batch_size):
        part = array[start : start + batch_size]
        missing = batch_size - len(part)
        rows = np.arange(start, start + len(part), dtype=np.int64)
        yield Batch(
            (np.concatenate([part, np.repeat(part[:1], missing, axis=0)]),),
            np.concatenate([rows, np.full(missing, -1, np.int64)]),
            np.zeros(batch_size, np.int64),
        )
