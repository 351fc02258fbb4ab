"""Groups items of varied length into batches of a few fixed shapes, without losing one."""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from ilias_jax.model import Preprocessing

# An item waits for its batch to fill up while so many batches' worth of other items come.
PATIENCE = 64
# Shorter by longer side, by the images that a length for it saves: what cameras take (1:1, 4:3, 3:2
# and 16:9; an assumption, as no table of the official images' sizes is published), then the rest.
_SHAPES = ((1, 1), (3, 4), (2, 3), (9, 16), (1, 3), (7, 8), (4, 9), (1, 6))


@dataclasses.dataclass(frozen=True, eq=False)
class Batch:
    """One batch as it goes to the devices.

    Attributes:
        arrays: each with leading axis B.
        rows: [B] int64 row of the result that every item belongs to, -1 for padding.
        owners: [B] int64 which result that is, where there are several.
        real_tokens: tokens of the items.
        computed_tokens: tokens that the devices compute, padding included.
    """

    arrays: tuple[np.ndarray, ...]
    rows: np.ndarray
    owners: np.ndarray
    real_tokens: int = 0
    computed_tokens: int = 0

    @property
    def mask(self) -> np.ndarray:
        """[B] bool, True for real items."""
        return self.rows >= 0


@dataclasses.dataclass(frozen=True, eq=False)
class PatchItem:
    """One image on its way to a batch, cut into patches.

    Attributes:
        row: of the result.
        pixels: [T, C] patches, uint8, or float32 normalised.
        size: (height, width) of the image before padding.
    """

    row: int
    pixels: np.ndarray
    size: tuple[int, int]

    @property
    def num_tokens(self) -> int:
        """T."""
        return len(self.pixels)

    @property
    def kind(self) -> tuple[object, ...]:
        """Items of one kind can share a batch."""
        return PatchItem, self.pixels.dtype

    @staticmethod
    def assemble(
        items: "Sequence[PatchItem]", length: int, batch_size: int
    ) -> tuple[np.ndarray, ...]:
        """Patches [B, length, C] and sizes [B, 2] int32; padding is 0 and of size (1, 1)."""
        channels = items[0].pixels.shape[1]
        patches = np.zeros((batch_size, length, channels), items[0].pixels.dtype)
        for place, item in zip(patches, items, strict=False):
            place[: len(item.pixels)] = item.pixels
        return patches, _pairs([item.size for item in items], batch_size)


@dataclasses.dataclass(frozen=True, eq=False)
class PictureItem:
    """One image on its way to a batch, to be resized and cut on the device.

    Attributes:
        row: of the result.
        pixels: [H, W, 3] uint8, the decoded picture.
        size: (height, width) after the resize, before padding.
        num_tokens: T, patches after the resize.
        canvas: S, side of the square that pictures of a batch lie in; at least H and W.
    """

    row: int
    pixels: np.ndarray
    size: tuple[int, int]
    num_tokens: int
    canvas: int

    @property
    def kind(self) -> tuple[object, ...]:
        """Items of one kind can share a batch."""
        return PictureItem, self.canvas

    @staticmethod
    def assemble(
        items: "Sequence[PictureItem]", length: int, batch_size: int
    ) -> tuple[np.ndarray, ...]:
        """What `pixels.resize` takes, padded to a batch.

        Returns:
            Canvas [B, S, S, 3] uint8 with each picture in its top left corner, sizes [B, 2] int32
            in the canvas and after the resize, and a mask [B, length] bool of real tokens, whose
            shape tells the device the length. Padding is a black picture of one pixel.
        """
        side = items[0].canvas
        canvas = np.empty((batch_size, side, side, 3), np.uint8)
        for place, item in zip(canvas, items, strict=False):
            height, width, _ = item.pixels.shape
            place[:height, :width] = item.pixels
        canvas[len(items) :, :1, :1] = 0
        counts = np.ones(batch_size, np.int64)
        counts[: len(items)] = [item.num_tokens for item in items]
        return (
            canvas,
            _pairs([item.pixels.shape[:2] for item in items], batch_size),
            _pairs([item.size for item in items], batch_size),
            np.arange(length) < counts[:, None],
        )


Item = PatchItem | PictureItem
_Group = tuple[tuple[object, ...], int]  # kind and length


def _pairs(values: Sequence[tuple[int, int]], batch_size: int) -> np.ndarray:
    """[B, 2] int32, padded with ones."""
    padded = np.ones((batch_size, 2), np.int32)
    padded[: len(values)] = values
    return padded


def bucket_lengths(how: Preprocessing, num_buckets: int, max_scale: float = 1.0) -> tuple[int, ...]:
    """Token counts to pad to, rising: those of the shapes that most images have, then any others.

    An image has s x n tokens, s being the patches of its longer side and n of its shorter. The
    first lengths are those of `_SHAPES`, so that what cameras take is not padded at all; further
    ones halve the widest step that is left.

    Args:
        how: resolution and patch size.
        num_buckets: how many; fewer where there are no more.
        max_scale: of the views; the lengths are those of the largest.
    """
    longest, side = how.longest_at(max_scale), how.side_at(max_scale)
    pixels = [max(1, longest * part // whole) for part, whole in _SHAPES[:num_buckets]]
    shorter = {-(-length // how.patch_size) for length in pixels}
    while len(shorter) < min(num_buckets, side):
        steps = itertools.pairwise(sorted({0, *shorter}))
        low, high = max(steps, key=lambda step: (step[1] - step[0], step[1]))
        shorter.add((low + high) // 2)
    return tuple(side * count for count in sorted(shorter))


class Packer:
    """Collects items of several owners by kind and shortest length that holds them.

    Which length an item gets depends on the item alone, and a batch always has the same number of
    rows, so that neither neighbours nor the number of devices change an item's result. Rare lengths
    fill up slowly; an item that has waited long leaves in a padded batch.

    Args:
        lengths: rising token counts; the last one must hold the largest image.
        batch_size: items of a batch.
        patience: an item waits at most until `patience * batch_size` others have come after it.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, patience: int = PATIENCE) -> None:
        self._lengths, self._batch_size = tuple(lengths), batch_size
        self._patience = patience * batch_size
        self._waiting: dict[_Group, list[tuple[int, Item]]] = {}
        self._since: dict[_Group, int] = {}  # in the order of arrival of each group's first item
        self._count = 0

    def add(self, item: Item, owner: int = 0) -> Iterator[Batch]:
        """Takes an item and yields the batches that are due.

        Raises:
            ValueError: the item has more tokens than the last length.
        """
        length = next((length for length in self._lengths if length >= item.num_tokens), None)
        if length is None:
            raise ValueError(
                f"an image has {item.num_tokens} tokens, lengths end at {self._lengths[-1]}"
            )
        group = item.kind, length
        waiting = self._waiting.setdefault(group, [])
        self._since.setdefault(group, self._count)
        waiting.append((owner, item))
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
        """The batch of a group's items."""
        owners, items = zip(*self._waiting.pop(group), strict=True)
        del self._since[group]
        length, missing = group[1], self._batch_size - len(items)
        return Batch(
            type(items[0]).assemble(items, length, self._batch_size),
            np.array([item.row for item in items] + [-1] * missing, np.int64),
            np.array(owners + (-1,) * missing, np.int64),
            sum(item.num_tokens for item in items),
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
