"""Groups images of varied length into batches of a few fixed shapes, without losing one."""

import dataclasses
import itertools
import math
import operator
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
            patches [B, T, C] and sizes [B, 2] int32, padding is 0 and of size (1, 1); of whole
            ones [B, H, W, 3] instead, each in the top left corner. Of images for the device's
            resize: canvas [B, S, S, 3] uint8 with each image in its top left corner, sizes [B, 2]
            int32 in the canvas and after the resize, and [B, T, 0] or [B, H, W, 0] without any
            value, whose shape tells the device what to make; padding is a black image of one pixel.
        rows: [B] int64 row of the result that every image or text belongs to, -1 for padding.
        owners: [B] int64 which result that is, where there are several.
        real_tokens: tokens of the images; pixels of whole ones.
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


def _assemble(
    images: Sequence[PreparedImage], shape: tuple[int, ...], batch_size: int
) -> tuple[Any, ...]:
    size = _pairs([image.size for image in images], batch_size)
    if isinstance(images[0], Patches):
        first = images[0].pixels
        pixels = np.zeros((batch_size, *shape, first.shape[-1]), first.dtype)
        for row, image in zip(pixels, images, strict=False):
            row[tuple(map(slice, image.extent))] = image.pixels
        return pixels, size
    side = images[0].canvas
    canvas = np.empty((batch_size, side, side, 3), np.uint8)
    for square, image in zip(canvas, images, strict=False):
        height, width, _ = image.pixels.shape
        square[:height, :width] = image.pixels
    canvas[len(images) :, :1, :1] = 0
    source = _pairs([image.pixels.shape[:2] for image in images], batch_size)
    return canvas, source, size, np.empty((batch_size, *shape, 0), np.uint8)


def _pairs(values: Sequence[tuple[int, ...]], batch_size: int) -> np.ndarray:
    padded = np.ones((batch_size, 2), np.int32)
    padded[: len(values)] = values
    return padded


def bucket_shapes(
    preprocessing: Preprocessing, num_buckets: int, max_scale: float = 1.0
) -> tuple[tuple[int, ...], ...]:
    """Shapes to pad to, rising in size: those that most images have, then any others.

    For networks that take patches a shape is a token count (T,): an image has s x n tokens, s being
    the patches of its longer side and n of its shorter. For those that take whole images it is a
    canvas (H, W), each but the square one upright and lying.

    The first are those of `_SHAPES`, so that what cameras take is not padded at all; further ones
    halve the widest step that is left. There are `num_buckets` of them, canvases of either
    orientation counted once, or fewer where there are no more; those of the largest view if its
    scale is `max_scale`.
    """
    longest, side = preprocessing.longest_at(max_scale), preprocessing.side_at(max_scale)
    pixels = [max(1, longest * part // whole) for part, whole in _SHAPES[:num_buckets]]
    shorter = {-(-length // preprocessing.patch_size) for length in pixels}
    while len(shorter) < min(num_buckets, side):
        steps = itertools.pairwise(sorted({0, *shorter}))
        low, high = max(steps, key=lambda step: (step[1] - step[0], step[1]))
        shorter.add((low + high) // 2)
    if not preprocessing.whole:
        return tuple((side * count,) for count in sorted(shorter))
    return tuple(shape for n in sorted(shorter) for shape in sorted({(n, side), (side, n)}))


_Group = tuple[type, object, tuple[int, ...]]  # images of one kind and one padded shape


class Packer:
    """Collects images of several owners by kind and smallest shape that holds them.

    Which shape an image gets depends on the image alone, and a batch always has the same number of
    rows, so that neither neighbours nor the number of devices change an image's result. Rare
    shapes fill up slowly; an image that has waited long leaves in a padded batch.

    Args:
        shapes: as `bucket_shapes` gives them; one must hold the largest image.
        batch_size: images of a batch.
        patience: an image waits at most until `patience * batch_size` others have come after it.
    """

    def __init__(
        self, shapes: Sequence[tuple[int, ...]], batch_size: int, patience: int = PATIENCE
    ) -> None:
        self._shapes, self._batch_size = tuple(shapes), batch_size
        self._patience = patience * batch_size
        self._waiting: dict[_Group, list[tuple[int, int, PreparedImage]]] = {}
        self._since: dict[_Group, int] = {}  # in the order of arrival of each group's first image
        self._count = 0

    def add(self, item: Item, owner: int = 0) -> Iterator[Batch]:
        """Takes an item that one of the shapes holds; yields the batches due."""
        row, image = item
        shape = self._smallest(image.extent)
        kind = image.pixels.dtype if isinstance(image, Patches) else image.canvas
        group = type(image), kind, shape
        waiting = self._waiting.setdefault(group, [])
        self._since.setdefault(group, self._count)
        waiting.append((owner, row, image))
        self._count += 1
        if len(waiting) == self._batch_size:
            yield self._take(group)
        while self._since and self._count - next(iter(self._since.values())) > self._patience:
            yield self._take(next(iter(self._since)))

    def _smallest(self, extent: tuple[int, ...]) -> tuple[int, ...]:
        fitting = (s for s in self._shapes if all(map(operator.ge, s, extent)))
        return next(fitting)  # a StopIteration would be a bug of `bucket_shapes`

    def flush(self) -> Iterator[Batch]:
        """Yields what is left, padded."""
        while self._since:
            yield self._take(next(iter(self._since)))

    def _take(self, group: _Group) -> Batch:
        owners, rows, images = zip(*self._waiting.pop(group), strict=True)
        del self._since[group]
        shape, padding = group[-1], (-1,) * (self._batch_size - len(images))
        return Batch(
            _assemble(images, shape, self._batch_size),
            np.array(rows + padding, np.int64),
            np.array(owners + padding, np.int64),
            sum(math.prod(image.extent) for image in images),
            math.prod(shape) * self._batch_size,
        )


def batch_items(
    items: Iterable[Item], shapes: Sequence[tuple[int, ...]], batch_size: int
) -> Iterator[Batch]:
    """Batches of one owner's items; see `Packer`."""
    packer = Packer(shapes, batch_size)
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
