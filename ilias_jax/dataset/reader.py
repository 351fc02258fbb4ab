"""Reads a dataset's shards through TFDS's data source and Grain.

`IliasDataset` knows ids, roles and shards; labels (scales, clutter, taxonomy) are not here but in
`ground_truth`, for the metrics alone.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Literal, TypeVar

import grain
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordReader
from etils import epath
from google.protobuf import json_format

from ilias_jax.dataset import shards as layout
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


def _to_record(number: int, example: dict) -> ImageRecord:
    boxes = tuple((float(x), float(y), float(w), float(h)) for x, y, w, h in example["boxes"])
    return ImageRecord(example["id"].decode(), example["image"], boxes, int(number))


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
    def _texts(self) -> tfds.core.DatasetBuilder:
        return _open(self.data_dir / "ilias_text" / layout.VERSION, "text queries")

    @functools.cached_property
    def selected(self) -> frozenset[str] | None:
        """Distractor ids of the subset, None for all."""
        if self.subset == "full":
            return None
        path = self.data_dir / "image_ids" / "mini_ilias_yfcc100m_ids.txt"
        if not path.exists():
            raise UserError(f"dataset.subset=mini needs {path}. " + _HOW_TO_GET_DATA)
        return frozenset(path.read_text().split())

    def check(self) -> None:
        """Raises UserError if a folder, split or shard file is missing."""
        present = set(self._images.info.splits)
        missing = [split for split in IMAGE_SPLITS if split not in present]
        if missing:
            raise UserError(
                f"{self._images.data_dir} has the splits {sorted(present)}, not {missing}"
            )
        for split in IMAGE_SPLITS:
            _shard_paths(self._images, split)
        _shard_paths(self._texts, layout.TEXT_SPLIT)
        self.selected  # noqa: B018  the list of the subset must be there too

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

    def _source(self, shard: Shard) -> tfds.core.DatasetBuilder:
        part = f"{shard.split}[{shard.number}shard:{shard.number + 1}shard]"
        return self._images.as_data_source(part, decoders=_RAW)

    def read(
        self, shard: Shard, transform: Callable[[ImageRecord], T], num_threads: int
    ) -> Iterator[T]:
        """Streams `transform(record)` over a shard's selected records, in stored order.

        Args:
            shard: one of `shards(...)`.
            transform: runs on reader threads; its exceptions surface here. Must not return None,
                which Grain takes for a record that was filtered out.
            num_threads: reader threads, at least 1.
        """
        self._check_count(shard)
        selected = self.selected if shard.split == "distractor" else None
        data = grain.MapDataset.source(self._source(shard)).map_with_index(_to_record)
        if selected is not None:
            data = data.filter(lambda record: record.image_id in selected)
        options = grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=16 * num_threads)
        yield from data.map(transform).to_iter_dataset(options)

    def _check_count(self, shard: Shard) -> None:
        """Raises UserError if a file is damaged or has another number of records than it should."""
        path = epath.Path(self._images.data_dir) / shard.file_name
        try:
            reader = ArrayRecordReader(str(path))
            found = reader.num_records()
            reader.close()
        except (RuntimeError, ValueError, TypeError) as error:
            raise UserError(f"{path} is damaged ({error}); write or copy it again") from error
        if found != shard.num_records:
            raise UserError(
                f"{path} holds {found} records, dataset_info.json says {shard.num_records}"
            )

    def ids(self, split: Split) -> list[str]:
        """Ids of a small split in stored order; reads all of its records.

        Raises:
            UserError: a shard is damaged.
        """
        for shard in self.shards(split):
            self._check_count(shard)
        return [
            example["id"].decode() for example in self._images.as_data_source(split, decoders=_RAW)
        ]

    def text_queries(self) -> list[TextRecord]:
        """All text queries in stored order."""
        return [
            TextRecord(example["id"].decode(), example["text"].decode())
            for example in self._texts.as_data_source(layout.TEXT_SPLIT)
        ]

    def read_one(self, shard: Shard, number: int) -> ImageRecord:
        """One record of a shard by its position, for pictures in a report."""
        return _to_record(number, self._source(shard)[number])
