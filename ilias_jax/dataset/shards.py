"""Writes ArrayRecord shards in TFDS format, TensorFlow not needed.

Images go to the TFDS dataset "ilias", text queries to "ilias_text"; both stand beside `image_ids/`
and `misc/` in one data folder. Every shard is written to a temporary name and renamed, and the
metadata comes last: a folder with `dataset_info.json` is complete.
"""

import contextlib
import pathlib
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter
from etils import epath

from ilias_jax import atomic
from ilias_jax.dataset.example import image_example, text_example
from ilias_jax.errors import UserError
from ilias_jax.records import ImageRecord, TextRecord

VERSION = "1.0.0"
TEXT_SPLIT = "text_query"
_TEXT_SHARD = f"ilias_text-{TEXT_SPLIT}.array_record-00000-of-00001"
_TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
# One record a group, so that any record is read without its neighbours. JPEGs are compressed
# already: doing it again takes twice the time for a hundredth of the size.
_WRITER_OPTIONS = "group_size:1,uncompressed"


def image_features() -> tfds.features.FeaturesDict:
    """TFDS features of an image record."""
    return tfds.features.FeaturesDict(
        {
            "id": tfds.features.Text(),
            "image": tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg"),
            "boxes": tfds.features.Tensor(shape=(None, 4), dtype=np.float32),
        }
    )


def text_features() -> tfds.features.FeaturesDict:
    """TFDS features of a text query."""
    return tfds.features.FeaturesDict({"id": tfds.features.Text(), "text": tfds.features.Text()})


def images_folder(data_dir: pathlib.Path) -> pathlib.Path:
    """Where the image shards of a data folder are."""
    return data_dir / "ilias" / VERSION


def texts_folder(data_dir: pathlib.Path) -> pathlib.Path:
    """Where the text shard of a data folder is."""
    return data_dir / "ilias_text" / VERSION


def image_shard_name(split: str, index: int, num_shards: int) -> str:
    """File name of a shard of images."""
    return f"ilias-{split}.array_record-{index:05d}-of-{num_shards:05d}"


def _fill(path: epath.Path, serialized: Iterable[bytes]) -> tuple[int, int]:
    """Writes one ArrayRecord file in place; returns (records, bytes of payload)."""
    count = num_bytes = 0
    writer = ArrayRecordWriter(str(path), _WRITER_OPTIONS)
    with contextlib.ExitStack() as stack:
        stack.callback(_close_unfinished, writer)
        for record in serialized:
            try:
                writer.write(record)
            except RuntimeError as error:  # of a full disk it may hear many records later
                raise UserError(f"{path} cannot be written ({error})") from error
            count, num_bytes = count + 1, num_bytes + len(record)
        stack.pop_all()
    try:
        writer.close()
        reader = ArrayRecordReader(str(path))
        found = reader.num_records()
        reader.close()
    except (RuntimeError, ValueError) as error:
        raise UserError(f"{path} cannot be written ({error})") from error
    if found != count:
        raise UserError(f"{path} holds {found} records after {count} were written")
    return count, num_bytes


def _close_unfinished(writer: ArrayRecordWriter) -> None:
    """Lets go of a file that is about to be removed, while another error is on its way."""
    with contextlib.suppress(RuntimeError):
        writer.close()


def _write(path: pathlib.Path, serialized: Iterable[bytes]) -> tuple[int, int]:
    """Writes one ArrayRecord file whole or not at all; returns (records, bytes of payload)."""
    with atomic.replacing(epath.Path(path)) as temporary:
        return _fill(temporary, serialized)


def write_image_shard(
    data_dir: pathlib.Path, split: str, index: int, num_shards: int, records: Iterable[ImageRecord]
) -> tuple[int, int]:
    """Writes one shard of images; returns (records, payload bytes) for `write_metadata`.

    Raises:
        UserError: the file cannot be written, for example because the disk is full.
    """
    name = image_shard_name(split, index, num_shards)
    serialized = (image_example(r.image_id, r.jpeg, r.boxes) for r in records)
    return _write(images_folder(data_dir) / name, serialized)


def write_text_shard(data_dir: pathlib.Path, records: Iterable[TextRecord]) -> tuple[int, int]:
    """Writes the one shard of text queries; returns (records, payload bytes)."""
    serialized = (text_example(r.query_id, r.text) for r in records)
    return _write(texts_folder(data_dir) / _TEXT_SHARD, serialized)


def text_shard_holds(data_dir: pathlib.Path, records: Iterable[TextRecord]) -> bool:
    """Whether the text shard is there and holds these records."""
    path = texts_folder(data_dir) / _TEXT_SHARD
    if not path.exists():
        return False
    try:
        reader = ArrayRecordReader(str(path))
        found: list[bytes] = reader.read_all()
        reader.close()
    except (RuntimeError, ValueError):
        return False  # damaged: it does not hold them
    return found == [text_example(r.query_id, r.text) for r in records]


def has_metadata(folder: pathlib.Path) -> bool:
    """Whether a dataset's folder claims to be complete."""
    return (folder / "dataset_info.json").exists()


def remove_metadata(folder: pathlib.Path) -> None:
    """Takes back a folder's claim to be complete, before its shards are written again."""
    (folder / "dataset_info.json").unlink(missing_ok=True)


def write_metadata(
    folder: pathlib.Path,
    features: tfds.features.FeaturesDict,
    splits: Mapping[str, Sequence[tuple[int, int]]],
    description: str,
) -> None:
    """Writes what `tfds.builder_from_directory` needs; call it last.

    Args:
        folder: holds the shards.
        features: of their records.
        splits: split name -> (records, payload bytes) of each shard in order.
        description: free text for the dataset's info.
    """
    infos = [
        tfds.core.SplitInfo(
            name=name,
            shard_lengths=[count for count, _ in shards],
            num_bytes=sum(num_bytes for _, num_bytes in shards),
            filename_template=tfds.core.ShardedFileTemplate(
                dataset_name=folder.parent.name,
                data_dir=folder,
                split=name,
                filetype_suffix="array_record",
                template=_TEMPLATE,
            ),
        )
        for name, shards in splits.items()
    ]
    with _beside(folder) as temporary:
        for name in splits:  # TFDS takes dataset, splits and format from names of files
            (temporary / f"{folder.parent.name}-{name}.array_record-00000-of-00001").touch()
        tfds.folder_dataset.write_metadata(
            data_dir=temporary,
            features=features,
            split_infos=infos,
            version=VERSION,
            description=description,
            check_data=False,  # TFDS's own check would import TensorFlow
        )
        for file in ("features.json", "dataset_info.json"):  # the second is the mark
            (temporary / file).replace(folder / file)


@contextlib.contextmanager
def _beside(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """A temporary folder, for files that are moved to `folder` when all are written."""
    temporary = folder / f".metadata.{uuid.uuid4().hex}.tmp"
    temporary.mkdir()
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
