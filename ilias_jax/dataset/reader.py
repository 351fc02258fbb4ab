"""Reads a dataset's shards through TFDS's data source and Grain.

`IliasDataset` knows ids, roles and shards; labels (scales, clutter, taxonomy) are not here but in
`ground_truth`, for the metrics alone.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import grain
import numpy as np
import tensorflow_datasets as tfds
from etils import epath
from google.protobuf import json_format
from google.protobuf.message import DecodeError

from ilias_jax.config import DatasetConfig
from ilias_jax.dataset import layout
from ilias_jax.dataset.id_lists import IdList, read_id_list
from ilias_jax.dataset.inventory import read_inventory
from ilias_jax.dataset.layout import ImageRecord, Shard, Split, Subset, TextRecord
from ilias_jax.dataset.shards import count_records
from ilias_jax.errors import UserError, quoted
from ilias_jax.files import head_and_tail, read_json

T = TypeVar("T")
_RAW = {"image": tfds.decode.SkipDecoding()}
_HOW_TO_GET_DATA = (
    "Official data: https://vrg.fel.cvut.cz/ilias_data and the Hugging Face dataset "
    "vrg-prague/ilias. A miniature world: `ilias-jax world --output DIR`."
)


def _open(folder: epath.Path, what: str) -> tfds.core.DatasetBuilder:
    if not (folder / "dataset_info.json").exists():
        state = "has no dataset_info.json" if folder.exists() else "does not exist"
        raise UserError(
            f"dataset.data_dir: {what} are looked for in {folder}, which {state}. "
            + _HOW_TO_GET_DATA
        )
    for name in ("dataset_info.json", "features.json"):
        _check_metadata(folder / name)
    try:
        return tfds.builder_from_directory(folder)
    except (
        *(json_format.ParseError, ValueError, KeyError, OSError),
        *(TypeError, AttributeError, SystemError),  # of JSON whose values are of other types
    ) as error:
        raise UserError(f"{folder} has damaged metadata ({error}); write it again") from error


def _check_metadata(path: epath.Path) -> None:
    """Raises UserError for what TFDS should not be given: what has no end, or is no object."""
    if not isinstance(read_json(path, "write the dataset again"), dict):
        raise UserError(f"{path} is no JSON object; write the dataset again")


def _files(builder: tfds.core.DatasetBuilder, split: str) -> list[tuple[epath.Path, int]]:
    if split not in builder.info.splits:
        present = sorted(builder.info.splits)
        raise UserError(f"{builder.data_dir} has the splits {present}, not {split!r}")
    info, folder = builder.info.splits[split], epath.Path(builder.data_dir)
    return [(folder / n, k) for n, k in zip(info.filenames, info.shard_lengths, strict=True)]


def _present_files(builder: tfds.core.DatasetBuilder, split: str) -> list[tuple[epath.Path, int]]:
    for path, _ in (files := _files(builder, split)):
        if not path.exists():
            raise UserError(f"{path} is missing; dataset_info.json lists it. " + _HOW_TO_GET_DATA)
    return files


def _to_record(number: int, example: dict) -> ImageRecord:
    boxes = tuple((float(x), float(y), float(w), float(h)) for x, y, w, h in example["boxes"])
    return ImageRecord(example["id"].decode(), example["image"], boxes, int(number))


def _example(source: Sequence[dict], number: int, path: epath.Path) -> dict:
    """One record of a shard; a UserError if its bytes are damaged."""
    try:
        return source[number]
    # What ArrayRecord, protobuf and TFDS raise for damage depends on where it is.
    except (RuntimeError, ValueError, KeyError, IndexError, TypeError, DecodeError) as error:
        raise UserError(
            f"{path}: record {number} is damaged ({type(error).__name__}: {error}); convert or "
            "copy the shard again"
        ) from error


def _check_count(path: epath.Path, expected: int) -> None:
    try:
        found = count_records(path)
    except (RuntimeError, ValueError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error}); write or copy it again") from error
    if found != expected:
        raise UserError(f"{path} holds {found} records, dataset_info.json says {expected}")


def _read_all(builder: tfds.core.DatasetBuilder, split: str, **options: Any) -> list[dict]:
    """All records of a small split in stored order; a UserError if a shard is damaged."""
    found: list[dict] = []
    for shard, (path, num_records) in enumerate(_present_files(builder, split)):
        _check_count(path, num_records)
        source = builder.as_data_source(f"{split}[{shard}shard:{shard + 1}shard]", **options)
        found += [_example(source, number, path) for number in range(num_records)]
    return found


@dataclasses.dataclass(frozen=True)
class ChosenRecords:
    """A sequence of chosen image records of one shard, which Grain reads by random access."""

    path: epath.Path  # of the shard, for messages
    source: Sequence[dict]  # all of its examples
    numbers: Sequence[int] | np.ndarray  # [M] positions of the wanted ones
    ids: Sequence[str] | None  # what all records should be; None if that is not known

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> ImageRecord:
        """Reads one record; a UserError if it is not the one that it should be."""
        number = int(self.numbers[index])
        record = _to_record(number, _example(self.source, number, self.path))
        if self.ids is not None and record.image_id != self.ids[number]:
            raise UserError(
                f"{self.path}: record {number} is {quoted(record.image_id)}, its inventory says "
                f"{quoted(self.ids[number])}; convert the tar again"
            )
        return record


@dataclasses.dataclass(frozen=True)
class IliasDataset:
    """An opened dataset."""

    data_dir: epath.Path  # holds `ilias/`, `ilias_text/`, `image_ids/` and `misc/`
    subset: Subset = "full"  # "mini" for the distractors that the official mini list names

    @functools.cached_property
    def _images(self) -> tfds.core.DatasetBuilder:
        return _open(layout.images_folder(self.data_dir), "image shards")

    @functools.cached_property
    def _texts(self) -> tfds.core.DatasetBuilder:
        return _open(layout.texts_folder(self.data_dir), "text queries")

    @functools.cached_property
    def has_texts(self) -> bool:
        """Whether there are text queries; the Hugging Face copy, for one, has none."""
        return layout.texts_folder(self.data_dir).exists()

    @functools.cached_property
    def selected(self) -> IdList | None:
        """The subset's distractors, None for all; a UserError if the list is missing or damaged."""
        if self.subset == "full":
            return None
        path = self.data_dir / "image_ids" / layout.MINI_LIST
        if not path.exists():
            raise UserError(f"dataset.subset=mini needs {path}. " + _HOW_TO_GET_DATA)
        return read_id_list(path, by_key=self._are_keys_compared())

    def read_expected(self) -> IdList | None:
        """The official list of the subset's distractors; None if the one of all is not there.

        The list of all 100 million takes a minute or two, 800 MB: `benchmarks/check_size.py`. A
        damaged one is a UserError.
        """
        if self.subset == "mini":
            return self.selected
        path = self.data_dir / "image_ids" / layout.FULL_LIST
        if not path.exists():
            return None
        return read_id_list(path, by_key=self._are_keys_compared(), whole_only=True)

    def _are_keys_compared(self) -> bool:
        """Whether the shards were made of the Hugging Face tars, whose names are in no list."""
        for number, (path, num_records) in enumerate(self.files("distractor")):
            ids: Sequence[str] = ()
            try:
                ids = read_inventory(self.inventory_path("distractor", number)).ids
            except UserError:  # no inventory that can be read: then the first record tells
                if num_records and path.exists():
                    _check_count(path, num_records)
                    ids = [_example(self._source("distractor", number), 0, path)["id"].decode()]
            if ids:
                return ids[0].startswith(layout.HUGGING_FACE_TAR)
        return False

    def check(self) -> None:
        """Raises UserError if a folder, split or shard file is missing."""
        for split in layout.IMAGE_SPLITS:
            _present_files(self._images, split)
        if self.has_texts:
            _present_files(self._texts, layout.TEXT_SPLIT)
        self.selected  # noqa: B018  the list of the subset must be there too

    def files(self, split: Split) -> list[tuple[epath.Path, int]]:
        """(path, number of records) of a split's shards as dataset_info.json lists them."""
        return _files(self._images, split)

    def num_payload_bytes(self, split: Split) -> int:
        """Bytes of a split's serialized records as dataset_info.json has them."""
        return self._images.info.splits[split].num_bytes

    def shards(self, split: Split) -> list[Shard]:
        """The shards of a split in order; a missing file is a UserError."""
        files = _present_files(self._images, split)
        return [
            Shard(split, n, len(files), k, path.name, path.stat().length, head_and_tail(path))
            for n, (path, k) in enumerate(files)
        ]

    def _source(self, split: Split, number: int) -> Sequence[dict]:
        part = f"{split}[{number}shard:{number + 1}shard]"
        return self._images.as_data_source(part, decoders=_RAW)

    def read(
        self, shard: Shard, transform: Callable[[ImageRecord], T], num_threads: int
    ) -> Iterator[T]:
        """Streams `transform(record)` over a shard's selected records, in stored order.

        A shard with `chosen` records has those alone, whatever is selected. With an inventory
        beside the shard, records that are not selected are not read. `transform` runs on
        `num_threads` threads, and its exceptions surface here; it must not return None, which Grain
        takes for a record that was filtered out.
        """
        takes_all = shard.split != "distractor" or shard.chosen is not None
        selected = None if takes_all else self.selected
        ids = None if selected is None else self._inventoried_ids(shard)
        whole = range(shard.num_records)
        numbers: Sequence[int] | np.ndarray = whole if shard.chosen is None else shard.chosen
        if selected is not None and ids is not None:
            numbers = np.flatnonzero(selected.find(ids) >= 0)
            if not len(numbers):
                return
        path = self.files(shard.split)[shard.number][0]
        _check_count(path, shard.num_records)
        chosen = ChosenRecords(path, self._source(shard.split, shard.number), numbers, ids)
        data = grain.MapDataset.source(chosen)
        if selected is not None and ids is None:
            data = data.filter(lambda record: record.image_id in selected)
        options = grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=16 * num_threads)
        yield from data.map(transform).to_iter_dataset(options)

    def check_unchanged(self, shard: Shard) -> None:
        """Raises UserError if a shard's file is not the one any more that `shards` has found."""
        path = self.files(shard.split)[shard.number][0]
        found = (path.stat().length, head_and_tail(path)) if path.exists() else None
        if found != (shard.num_bytes, shard.digest):
            state = "was replaced" if found else "was removed"
            raise UserError(
                f"{path} {state} while it was read; nothing of it was written. Leave the dataset "
                "alone while a run reads it, and run the same command again"
            )

    def inventory_path(self, split: Split, number: int) -> epath.Path:
        """Where the inventory of a shard is, or would be."""
        return layout.inventory_path(self.data_dir, split, number, len(self.files(split)))

    def _inventoried_ids(self, shard: Shard) -> tuple[str, ...] | None:
        path = self.inventory_path(shard.split, shard.number)
        if not path.exists():
            return None
        found = read_inventory(path)
        if (found.shard.num_bytes, len(found.ids)) != (shard.num_bytes, shard.num_records):
            raise UserError(
                f"{path} is not of {shard.file_name}: it says {found.shard.num_bytes} bytes and "
                f"{len(found.ids)} records, not {shard.num_bytes} and {shard.num_records}; "
                "convert the tar again"
            )
        return found.ids

    def ids(self, split: Split) -> list[str]:
        """Ids of a small split in stored order; reads all records, a UserError if damaged."""
        examples = _read_all(self._images, split, decoders=_RAW)
        return [example["id"].decode() for example in examples]

    def text_queries(self) -> list[TextRecord]:
        """All text queries in stored order, none without `has_texts`; a UserError if damaged."""
        if not self.has_texts:
            return []
        found = _read_all(self._texts, layout.TEXT_SPLIT)
        return [TextRecord(example["id"].decode(), example["text"].decode()) for example in found]

    def read_one(self, shard: Shard, number: int) -> ImageRecord:
        """One record of a shard by its position, for pictures in a report."""
        path = self.files(shard.split)[shard.number][0]
        return _to_record(number, _example(self._source(shard.split, shard.number), number, path))


def open_dataset(config: DatasetConfig) -> IliasDataset:
    """The dataset of a configuration; opens no file yet."""
    return IliasDataset(epath.Path(config.data_dir), config.subset)
