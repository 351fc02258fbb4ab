"""Groups items of varied length into batches of a few fixed shapes, without losing one."""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence

import numpy as np


@dataclasses.dataclass(frozen=True)
class Batch:
    """One batch as it goes to the devices.

    Attributes:
        arrays: each with leading axis B.
        rows: [B] int64 row of the result that every item belongs to, -1 for padding.
    """

    arrays: tuple[np.ndarray, ...]
    rows: np.ndarray

    @property
    def mask(self) -> np.ndarray:
        """[B] bool, True for real items."""
        return self.rows >= 0


@dataclasses.dataclass(frozen=True)
class PatchItem:
    """One image on its way to a batch: its result row, patches [T, C] and (height, width)."""

    row: int
    pixels: np.ndarray
    size: tuple[int, int]


def bucket_lengths(max_side: int, num_buckets: int) -> tuple[int, ...]:
    """Token counts to pad to: `num_buckets` even steps of whole rows up to max_side x max_side.

    An image has max_side x n tokens, n being the patches of its shorter side, so whole rows waste
    nothing beyond the step.
    """
    steps = min(num_buckets, max_side)
    sides = {-(-max_side * step // steps) for step in range(1, steps + 1)}
    return tuple(max_side * side for side in sorted(sides))


def _assemble(items: Sequence[PatchItem], length: int, batch_size: int) -> Batch:
    """Pads items to [batch_size, length, C]; padding has size (1, 1) and row -1."""
    channels = items[0].pixels.shape[1]
    patches = np.zeros((batch_size, length, channels), items[0].pixels.dtype)
    sizes = np.ones((batch_size, 2), np.int32)
    rows = np.full(batch_size, -1, np.int64)
    for i, item in enumerate(items):
        patches[i, : len(item.pixels)] = item.pixels
        sizes[i], rows[i] = item.size, item.row
    return Batch((patches, sizes), rows)


def batch_patches(
    items: Iterable[PatchItem], lengths: Sequence[int], batch_size: int
) -> Iterator[Batch]:
    """Collects images by the shortest length that holds them and yields full batches.

    Args:
        items: images in any order, all uint8 or all float32.
        lengths: rising token counts; the last one must hold the largest image.
        batch_size: images of a batch; the last of each length is padded to it.

    Raises:
        ValueError: an image has more tokens than the last length.
    """
    waiting: dict[int, list[PatchItem]] = {length: [] for length in lengths}
    for item in items:
        length = next((length for length in lengths if length >= len(item.pixels)), None)
        if length is None:
            raise ValueError(
                f"an image has {len(item.pixels)} tokens, lengths end at {lengths[-1]}"
            )
        waiting[length].append(item)
        if len(waiting[length]) == batch_size:
            yield _assemble(waiting[length], length, batch_size)
            waiting[length] = []
    for length, left in waiting.items():
        if left:
            yield _assemble(left, length, batch_size)


def batch_rows(array: np.ndarray, batch_size: int) -> Iterator[Batch]:
    """Cuts [N, ...] into batches of `batch_size`; the last is padded by repeating its first row."""
    for start in range(0, len(array), batch_size):
        part = array[start : start + batch_size]
        missing = batch_size - len(part)
        rows = np.arange(start, start + len(part), dtype=np.int64)
        yield Batch(
            (np.concatenate([part, np.repeat(part[:1], missing, axis=0)]),),
            np.concatenate([rows, np.full(missing, -1, np.int64)]),
        )
