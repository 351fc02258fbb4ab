"""Chosen records of one shard by random access: the others are never read."""

from collections.abc import Sequence

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader
from etils import epath

from ilias_jax.errors import UserError
from ilias_jax.records import ImageRecord


def to_record(number: int, example: dict) -> ImageRecord:
    """The image of a decoded TFDS example, the `number`th of its shard."""
    boxes = tuple((float(x), float(y), float(w), float(h)) for x, y, w, h in example["boxes"])
    return ImageRecord(example["id"].decode(), example["image"], boxes, int(number))


def check_count(path: epath.Path, expected: int) -> None:
    """Raises UserError if a file is damaged or has another number of records than it should."""
    try:
        reader = ArrayRecordReader(str(path))
        found = reader.num_records()
        reader.close()
    except (RuntimeError, ValueError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error}); write or copy it again") from error
    if found != expected:
        raise UserError(f"{path} holds {found} records, dataset_info.json says {expected}")


class ChosenRecords:
    """A sequence of image records that Grain reads from.

    Args:
        path: of the shard, for messages.
        source: all of its examples.
        numbers: [M] positions of the wanted ones.
        ids: what all records should be; None if that is not known.
    """

    def __init__(
        self,
        path: epath.Path,
        source: Sequence[dict],
        numbers: Sequence[int] | np.ndarray,
        ids: Sequence[str] | None,
    ) -> None:
        self._path, self._source, self._numbers, self._ids = path, source, numbers, ids

    def __len__(self) -> int:
        """M."""
        return len(self._numbers)

    def __getitem__(self, place: int) -> ImageRecord:
        """Reads one record; a UserError if it is not the one that it should be."""
        number = int(self._numbers[place])
        record = to_record(number, self._source[number])
        if self._ids is not None and record.image_id != self._ids[number]:
            raise UserError(
                f"{self._path}: record {number} is {record.image_id!r}, its inventory says "
                f"{self._ids[number]!r}; convert the tar again"
            )
        return record
