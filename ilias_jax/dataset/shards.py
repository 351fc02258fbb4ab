"""Writes ArrayRecord shards in TFDS format, TensorFlow not needed.

Images go to the TFDS dataset "ilias", text queries to "ilias_text"; both stand beside `image_ids/`
and `misc/` in one data folder. Every shard is written to a temporary name and renamed, and the
metadata come last: a folder with `dataset_info.json` is complete.
"""

import contextlib
import errno
import pathlib
import shutil
import struct
import uuid
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter
from etils import epath

from ilias_jax import files
from ilias_jax.dataset import layout
from ilias_jax.dataset.layout import Box, ImageRecord, TextRecord
from ilias_jax.errors import UserError

_TEXT_SHARD = f"ilias_text-{layout.TEXT_SPLIT}.array_record-00000-of-00001"
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


# Records are tf.Example messages in the bytes that TFDS writes, without protobuf: a shard of
# 100,000 images is 6 GB, protobuf would copy each image several times, these functions copy it
# once. Map entries are in the order of their keys, as in protobuf's deterministic form.
#
# Fields (tensorflow/core/example/{example,feature}.proto): Example.features = 1; Features.feature
# = 1, a map of key = 1 to value = 2; Feature.bytes_list = 1, Feature.float_list = 2; value = 1 in
# both lists. All are length-delimited.
_ONE, _TWO = b"\x0a", b"\x12"  # field numbers 1 and 2, each with wire type 2
_SMALL = tuple(bytes((value,)) for value in range(0x80))


def _varint(value: int) -> bytes:
    """Seven bits a byte, lowest first; the high bit says that more follow."""
    if value < len(_SMALL):
        return _SMALL[value]
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _wrap(tag: bytes, head: bytes, num_bytes: int) -> bytes:
    """Head of a field that holds `head` and `num_bytes` bytes after it."""
    return tag + _varint(len(head) + num_bytes) + head


def _entry(key: bytes, kind: bytes, head: bytes, num_bytes: int) -> bytes:
    """Head of a map entry; `num_bytes` bytes follow the head of its list's value."""
    feature = _wrap(kind, head, num_bytes)
    value = _wrap(_ONE, key, 0) + _wrap(_TWO, feature, num_bytes)
    return _wrap(_ONE, value, num_bytes)


def _bytes_entry(key: bytes, num_bytes: int) -> bytes:
    return _entry(key, _ONE, _wrap(_ONE, b"", num_bytes), num_bytes)


def _boxes_entry(boxes: Sequence[Box]) -> bytes:
    """The entry of [N, 4] float32 values; an empty list has no value field at all."""
    values = [value for box in boxes for value in box]
    packed = struct.pack(f"<{len(values)}f", *values)
    return _entry(b"boxes", _TWO, _wrap(_ONE, packed, 0) if values else b"", 0)


_NO_BOXES = _boxes_entry(())


def image_example(record: ImageRecord) -> bytes:
    """Serializes an image record: features `boxes`, `id` and `image`."""
    name, num_bytes = record.image_id.encode(), len(record.jpeg)
    head = _boxes_entry(record.boxes) if record.boxes else _NO_BOXES
    head += _bytes_entry(b"id", len(name)) + name + _bytes_entry(b"image", num_bytes)
    return b"".join((_wrap(_ONE, head, num_bytes), record.jpeg))


def text_example(record: TextRecord) -> bytes:
    """Serializes a text query: features `id` and `text`."""
    name, value = record.query_id.encode(), record.text.encode()
    body = _bytes_entry(b"id", len(name)) + name + _bytes_entry(b"text", len(value)) + value
    return _wrap(_ONE, body, 0)


def _fill(path: epath.Path, serialized: Iterable[bytes]) -> tuple[int, int]:
    """Writes one ArrayRecord file in place; returns (records, bytes of payload).

    An OSError says why the system does not take it.
    """
    count = num_bytes = 0
    writer = ArrayRecordWriter(str(path), _WRITER_OPTIONS)
    with contextlib.ExitStack() as stack:
        stack.callback(_close_unfinished, writer)
        for record in serialized:
            try:
                writer.write(record)
            except RuntimeError as error:  # of a full disk it may hear many records later
                raise OSError(errno.EIO, str(error)) from error
            count, num_bytes = count + 1, num_bytes + len(record)
        stack.pop_all()
    try:
        writer.close()
        found = count_records(path)
    except (RuntimeError, ValueError) as error:
        raise OSError(errno.EIO, str(error)) from error
    if found != count:
        raise UserError(f"{path} holds {found} records after {count} were written")
    return count, num_bytes


def count_records(path: epath.PathLike) -> int:
    """Records of an ArrayRecord file; a RuntimeError, ValueError or TypeError if it is damaged."""
    with files.reading(path):
        reader = ArrayRecordReader(str(path))
        found = reader.num_records()
        reader.close()
    return int(found)


def _close_unfinished(writer: ArrayRecordWriter) -> None:
    """Lets go of a file that is about to be removed, while another error is on its way."""
    with contextlib.suppress(RuntimeError):
        writer.close()


def write_image_shard(
    data_dir: pathlib.Path, split: str, number: int, num_shards: int, records: Iterable[ImageRecord]
) -> tuple[int, int]:
    """Writes one shard of images whole or not at all; a UserError if the disk does not take it.

    Returns:
        (records, payload bytes) for `write_metadata`.
    """
    path = epath.Path(layout.shard_path(data_dir, split, number, num_shards))
    with files.replacing(path) as temporary:
        return _fill(temporary, map(image_example, records))


def write_text_shard(data_dir: pathlib.Path, records: Iterable[TextRecord]) -> tuple[int, int]:
    """Writes the one shard of text queries; returns (records, payload bytes)."""
    with files.replacing(epath.Path(layout.texts_folder(data_dir) / _TEXT_SHARD)) as temporary:
        return _fill(temporary, map(text_example, records))


def text_shard_holds(data_dir: pathlib.Path, records: Iterable[TextRecord]) -> bool:
    """Whether the text shard is there and holds these records."""
    path = layout.texts_folder(data_dir) / _TEXT_SHARD
    if not path.exists():
        return False
    try:
        reader = ArrayRecordReader(str(path))
        found: list[bytes] = reader.read_all()
        reader.close()
    except (RuntimeError, ValueError):
        return False  # damaged: it does not hold them
    return found == list(map(text_example, records))


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
    """Writes what `tfds.builder_from_directory` needs beside a folder's shards; call it last.

    `splits` are split name -> (records, payload bytes) of each shard in order; the description is
    free text.
    """
    dataset = folder.parent.name
    infos = [
        tfds.core.SplitInfo(
            name=name,
            shard_lengths=[count for count, _ in shards],
            num_bytes=sum(num_bytes for _, num_bytes in shards),
            filename_template=tfds.core.ShardedFileTemplate(
                folder, dataset_name=dataset, split=name, filetype_suffix="array_record"
            ),
        )
        for name, shards in splits.items()
    ]
    temporary = folder / f".metadata.{uuid.uuid4().hex}.tmp"
    temporary.mkdir()
    try:
        for name in splits:  # TFDS takes dataset, splits and format from names of files
            (temporary / f"{dataset}-{name}.array_record-00000-of-00001").touch()
        tfds.folder_dataset.write_metadata(
            data_dir=temporary,
            features=features,
            split_infos=infos,
            version=layout.VERSION,
            description=description,
            check_data=False,  # TFDS's own check would import TensorFlow
        )
        for file in ("features.json", "dataset_info.json"):  # the second is the mark
            (temporary / file).replace(folder / file)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
