"""Reads a dataset's shards through TFDS's data source and Grain.

`IliasDataset` knows ids, roles and shards; labels (scales, clutter, taxonomy) are not here but in
`ground_truth`, for the metrics alone.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, TypeVar

import grain
import numpy as np
import tensorflow_datasets as tfds
from etils import epath
from google.protobuf import json_format

from ilias_jax.dataset import id_files, inventory
from ilias_jax.dataset import shards as layout
from ilias_jax.dataset.chosen_records import ChosenRecords, check_count, to_record
from ilias_jax.dataset.digest import head_and_tail
from ilias_jax.errors import UserError
from ilias_jax.records import IMAGE_SPLITS, ImageRecord, Shard, Split, TextRecord

Subset = Literal["full", "mini"]
T = TypeVar("T")
_RAW = {"image": tfds.decode.SkipDecoding()}
_HOW_TO_GET_DATA = (
    "Official data: https://vrg.fel.cvut.cz/ilias_data and the Hugging Face dataset "
    "vrg-prague/ilias. A miniature world: `ilias-jax world --output DIR`."
)


def _open(folder: epath.Path, what: str) -> tfds.core.DatasetBuilder:
    """Opens a TFDS folder or says what is missing."""
    if not (folder / "dataset_info.json").exists():
        state = "has no dataset_info.json" if folder.exists() else "does not exist"
        raise UserError(
            f"dataset.data_dir: {what} are looked for in {folder}, which {state}. "
            + _HOW_TO_GET_DATA
        )
    try:
        return tfds.builder_from_directory(folder)
    except (json_format.ParseError, ValueError, KeyError, OSError) as error:
        raise UserError(f"{folder} has damaged metadata ({error}); write it again") from error


def _check_split(builder: tfds.core.DatasetBuilder, split: str) -> None:
    """Raises UserError if a dataset lacks a split."""
    present = sorted(builder.info.splits)
    if split not in present:
        raise UserError(f"{builder.data_dir} has the splits {present}, not {split!r}")


def _shard_paths(builder: tfds.core.DatasetBuilder, split: str) -> list[epath.Path]:
    """The files of a split in order; a missing one is a UserError."""
    folder = epath.Path(builder.data_dir)
    paths = [folder / name for name in builder.info.splits[split].filenames]
    for path in paths:
        if not path.exists():
            raise UserError(f"{path} is missing; dataset_info.json lists it. " + _HOW_TO_GET_DATA)
    return paths


@dataclasses.dataclass(frozen=True)
class IliasDataset:
    """An opened dataset.

    Attributes:
        data_dir: holds `ilias/`, `ilias_text/`, `image_ids/` and `misc/`.
        subset: "full", or "mini" for the distractors that the official mini list names.
    """

    data_dir: epath.Path
    subset: Subset = "full"

    @functools.cached_property
    def _images(self) -> tfds.core.DatasetBuilder:
        return _open(self.data_dir / "ilias" / layout.VERSION, "image shards")

    @functools.cached_property
    def has_texts(self) -> bool:
        """Whether there are text queries; the Hugging Face copy, for one, has none."""
        return self._texts_folder.exists()

    @property
    def _texts_folder(self) -> epath.Path:
        return self.data_dir / "ilias_text" / layout.VERSION

    @functools.cached_property
    def _texts(self) -> tfds.core.DatasetBuilder:
        return _open(self._texts_folder, "text queries")

    @functools.cached_property
    def selected(self) -> id_files.IdList | None:
        """Distractors of the subset, None for all.

        Raises:
            UserError: the list is missing or damaged.
        """
        if self.subset == "full":
            return None
        path = self.data_dir / "image_ids" / id_files.MINI
        if not path.exists():
            raise UserError(f"dataset.subset=mini needs {path}. " + _HOW_TO_GET_DATA)
        return id_files.read_id_list(path, by_key=self._are_keys_compared())

    def read_expected(self) -> id_files.IdList | None:
        """The official list of the subset's distractors; None if the one of all is not there.

        The list of all 100 million takes a minute or two, 800 MB: `benchmarks/check_size.py`.

        Raises:
            UserError: the list is damaged.
        """
        if self.subset == "mini":
            return self.selected
        path = self.data_dir / "image_ids" / id_files.FULL
        if not path.exists():
            return None
        return id_files.read_id_list(path, by_key=self._are_keys_compared(), whole_only=True)

    def _are_keys_compared(self) -> bool:
        """Whether the shards were made of the Hugging Face tars, whose names are in no list."""
        for number in range(len(self.files("distractor"))):
            if first := self._first_id(number):
                return first.startswith(id_files.HUGGING_FACE_TAR)
        return False

    def _first_id(self, number: int) -> str | None:
        """Id of the first image of a distractor shard; None if it has none or is not there."""
        path, num_records = self.files("distractor")[number]
        with contextlib.suppress(UserError):  # no inventory that can be read: then the record
            contents = inventory.read(self.inventory_path("distractor", number))
            return contents.ids[0] if contents.ids else None
        if not num_records or not path.exists():
            return None
        check_count(path, num_records)
        return to_record(0, self._source("distractor", number)[0]).image_id

    def check(self) -> None:
        """Raises UserError if a folder, split or shard file is missing."""
        for split in IMAGE_SPLITS:
            _check_split(self._images, split)
            _shard_paths(self._images, split)
        if self.has_texts:
            self._text_paths()
        self.selected  # noqa: B018  the list of the subset must be there too

    def files(self, split: Split) -> list[tuple[epath.Path, int]]:
        """(path, number of records) of a split's shards as dataset_info.json lists them.

        Raises:
            UserError: there is no such split.
        """
        _check_split(self._images, split)
        info = self._images.info.splits[split]
        folder = epath.Path(self._images.data_dir)
        names = [folder / name for name in info.filenames]
        return list(zip(names, info.shard_lengths, strict=True))

    def num_payload_bytes(self, split: Split) -> int:
        """Bytes of a split's serialized records as dataset_info.json has them."""
        return self._images.info.splits[split].num_bytes

    def _text_paths(self) -> list[epath.Path]:
        _check_split(self._texts, layout.TEXT_SPLIT)
        return _shard_paths(self._texts, layout.TEXT_SPLIT)

    def shards(self, split: Split) -> list[Shard]:
        """The shards of a split in order; a missing file is a UserError."""
        paths = _shard_paths(self._images, split)
        lengths = self._images.info.splits[split].shard_lengths
        return [
            Shard(
                split, index, len(paths), length, path.name, path.stat().length, head_and_tail(path)
            )
            for index, (path, length) in enumerate(zip(paths, lengths, strict=True))
        ]

    def _source(self, split: Split, number: int) -> Sequence[dict]:
        """The records of one shard by random access."""
        part = f"{split}[{number}shard:{number + 1}shard]"
        return self._images.as_data_source(part, decoders=_RAW)

    def read(
        self, shard: Shard, transform: Callable[[ImageRecord], T], num_threads: int
    ) -> Iterator[T]:
        """Streams `transform(record)` over a shard's selected records, in stored order.

        With an inventory beside the shard, records that are not selected are not read.

        Args:
            shard: one of `shards(...)`.
            transform: runs on reader threads; its exceptions surface here. Must not return None,
                which Grain takes for a record that was filtered out.
            num_threads: reader threads, at least 1.
        """
        selected = self.selected if shard.split == "distractor" else None
        contents = None if selected is None else self._contents(shard)
        numbers: Sequence[int] | np.ndarray = range(shard.num_records)
        if selected is not None and contents is not None:
            numbers = np.flatnonzero(selected.find(contents.ids) >= 0)
        if contents is not None and not len(numbers):
            return
        path = epath.Path(self._images.data_dir) / shard.file_name
        check_count(path, shard.num_records)
        source = self._source(shard.split, shard.number)
        ids = None if contents is None else contents.ids
        data = grain.MapDataset.source(ChosenRecords(path, source, numbers, ids))
        if selected is not None and contents is None:
            data = data.filter(lambda record: record.image_id in selected)
        options = grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=16 * num_threads)
        yield from data.map(transform).to_iter_dataset(options)

    def check_unchanged(self, shard: Shard) -> None:
        """Raises UserError if a shard's file is not the one any more that `shards` has found."""
        path = epath.Path(self._images.data_dir) / shard.file_name
        found = (path.stat().length, head_and_tail(path)) if path.exists() else None
        if found != (shard.num_bytes, shard.digest):
            state = "was replaced" if found else "was removed"
            raise UserError(
                f"{path} {state} while it was read; nothing of it was written. Leave the dataset "
                "alone while a run reads it, and run the same command again"
            )

    def inventory_path(self, split: Split, number: int) -> epath.Path:
        """Where the inventory of a shard is, or would be."""
        return inventory.path_of(self.data_dir, split, number, len(self.files(split)))

    def _contents(self, shard: Shard) -> inventory.Inventory | None:
        """The shard's inventory, None if it has none."""
        path = self.inventory_path(shard.split, shard.number)
        if not path.exists():
            return None
        found = inventory.read(path)
        if (found.shard.num_bytes, len(found.ids)) != (shard.num_bytes, shard.num_records):
            raise UserError(
                f"{path} is not of {shard.file_name}: it says {found.shard.num_bytes} bytes and "
                f"{len(found.ids)} records, not {shard.num_bytes} and {shard.num_records}; "
                "convert the tar again"
            )
        return found

    def ids(self, split: Split) -> list[str]:
        """Ids of a small split in stored order; reads all of its records.

        Raises:
            UserError: a shard is damaged.
        """
        for path, num_records in self.files(split):
            check_count(path, num_records)
        return [
            example["id"].decode() for example in self._images.as_data_source(split, decoders=_RAW)
        ]

    def text_queries(self) -> list[TextRecord]:
        """All text queries in stored order; none if `has_texts` is false.

        Raises:
            UserError: the shard is missing or damaged.
        """
        if not self.has_texts:
            return []
        paths = self._text_paths()
        lengths = self._texts.info.splits[layout.TEXT_SPLIT].shard_lengths
        for path, length in zip(paths, lengths, strict=True):
            check_count(path, length)
        return [
            TextRecord(example["id"].decode(), example["text"].decode())
            for example in self._texts.as_data_source(layout.TEXT_SPLIT)
        ]

    def read_one(self, shard: Shard, number: int) -> ImageRecord:
        """One record of a shard by its position, for pictures in a report."""
        return to_record(number, self._source(shard.split, shard.number)[number])
