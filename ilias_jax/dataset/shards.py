"""Writes ArrayRecord shards in TFDS format, TensorFlow not needed.

Images go to the TFDS dataset "ilias", text queries to "ilias_text"; both stand beside `image_ids/`
and `misc/` in one data folder. Every shard is written to a temporary name and renamed, and the
metadata comes last: a folder with `dataset_info.json` is complete.
"""

import contextlib
import io
import pathlib
from collections.abc import Iterable, Sequence

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter
from etils import epath
from tensorflow_datasets.proto import tf_example_pb2

from ilias_jax import atomic
from ilias_jax.records import ImageRecord, TextRecord

VERSION = "1.0.0"
TEXT_SPLIT = "text_query"
_TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
# One record a group, so that any record is read without its neighbours.
_WRITER_OPTIONS = "group_size:1"


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


def _serialize(features: tfds.features.FeaturesDict, example: dict) -> bytes:
    """A tf.Example; protobuf's own order of map entries changes from process to process."""
    message = tf_example_pb2.Example.FromString(features.serialize_example(example))
    return message.SerializeToString(deterministic=True)


def _serialize_image(features: tfds.features.FeaturesDict, record: ImageRecord) -> bytes:
    boxes = np.asarray(record.boxes, np.float32).reshape(-1, 4)
    image = io.BytesIO(record.jpeg)
    return _serialize(features, {"id": record.image_id, "image": image, "boxes": boxes})


def _write(path: pathlib.Path, serialized: Iterable[bytes]) -> tuple[int, int]:
    """Writes one ArrayRecord file; returns (records, bytes of payload)."""
    count = num_bytes = 0
    with (
        atomic.replacing(epath.Path(path)) as temporary,
        contextlib.closing(ArrayRecordWriter(str(temporary), _WRITER_OPTIONS)) as writer,
    ):
        for record in serialized:
            writer.write(record)
            count, num_bytes = count + 1, num_bytes + len(record)
    return count, num_bytes


def write_image_shard(
    data_dir: pathlib.Path, split: str, index: int, num_shards: int, records: Iterable[ImageRecord]
) -> tuple[int, int]:
    """Writes one shard of images; returns (records, payload bytes) for `write_metadata`."""
    features = image_features()
    name = f"ilias-{split}.array_record-{index:05d}-of-{num_shards:05d}"
    serialized = (_serialize_image(features, record) for record in records)
    return _write(images_folder(data_dir) / name, serialized)


def write_text_shard(data_dir: pathlib.Path, records: Iterable[TextRecord]) -> tuple[int, int]:
    """Writes the one shard of text queries; returns (records, payload bytes)."""
    features = text_features()
    name = f"ilias_text-{TEXT_SPLIT}.array_record-00000-of-00001"
    serialized = (_serialize(features, {"id": r.query_id, "text": r.text}) for r in records)
    return _write(texts_folder(data_dir) / name, serialized)


def remove_metadata(data_dir: pathlib.Path) -> None:
    """Takes back a folder's claim to be complete, before its shards are written again."""
    for folder in (images_folder(data_dir), texts_folder(data_dir)):
        (folder / "dataset_info.json").unlink(missing_ok=True)


def write_metadata(
    folder: pathlib.Path,
    features: tfds.features.FeaturesDict,
    splits: dict[str, Sequence[tuple[int, int]]],
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
    tfds.folder_dataset.write_metadata(
        data_dir=folder,
        features=features,
        split_infos=infos,
        description=description,
        check_data=False,  # TFDS's own check would import TensorFlow
    )
