"""The records of a dataset, its splits, and where its files are in a data folder."""

import dataclasses
import pathlib
from typing import Literal, TypeVar

Split = Literal["image_query", "positive", "distractor"]
IMAGE_SPLITS: tuple[Split, ...] = ("image_query", "positive", "distractor")
TEXT_SPLIT = "text_query"
Subset = Literal["full", "mini"]
# Of the published dataset; distractors by subset.
OFFICIAL_CORE = {"image_query": 1_232, "text_query": 1_000, "positive": 4_715}
OFFICIAL_DISTRACTORS = {"mini": 5_000_000, "full": 100_000_000}
VERSION = "1.0.0"  # of the TFDS datasets "ilias" and "ilias_text"
MINI_LIST, FULL_LIST = "mini_ilias_yfcc100m_ids.txt", "distractor_ids.txt.gz"
# Begins the names of the Hugging Face copy's distractor tars, which no official list has: they hold
# the images of the YFCC tars under the same keys.
HUGGING_FACE_TAR = "mini_ilias_yfcc100m-"
# What is read under the name .jpg, as Pillow calls it; its JPEG reader opens MPO, too. The official
# reader takes all that Pillow opens; the others need programs of their own, or are no pictures.
IMAGE_FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF")
Box = tuple[float, float, float, float]  # x, y, width, height in pixels of the upright image
P = TypeVar("P", bound=pathlib.PurePath)


@dataclasses.dataclass(frozen=True)
class ImageRecord:
    """One stored image."""

    image_id: str  # official, such as "mug_012/pos/P012_03.jpg" or "yfcc_000.tar/000123"
    jpeg: bytes  # as published
    # The query object's boxes; empty for distractors. Pictures in reports show them; no embedding
    # depends on them unless `views.crop_to_box` or `views.mask_outside_box` is on.
    boxes: tuple[Box, ...] = ()
    number: int = 0  # row in its shard


@dataclasses.dataclass(frozen=True)
class TextRecord:
    """One text query: the official id, such as "mug_012/query/T012.txt", and the whole file."""

    query_id: str
    text: str


@dataclasses.dataclass(frozen=True)
class Shard:
    """One ArrayRecord file of a split."""

    split: Split  # the role of its images
    number: int  # its index among the split's shards, from 0
    num_shards: int  # of the split
    num_records: int  # images in this one
    file_name: str  # without folder
    num_bytes: int
    digest: str  # sha256 of the file's beginning and end; the end indexes every record
    chosen: tuple[int, ...] | None = None  # rising positions of the records wanted; None for all

    @property
    def num_wanted(self) -> int:
        """Images that are to be read."""
        return self.num_records if self.chosen is None else len(self.chosen)


def follows_exif(split: Split) -> bool:
    """Whether images of a split are turned by their EXIF orientation: core images only."""
    return split != "distractor"


def folders(data_dir: str) -> list[str]:
    """The folders of shards, ids and categories, of which a command reads any file."""
    return [f"{data_dir}/{name}" for name in ("ilias", "ilias_text", "image_ids", "misc")]


def images_folder(data_dir: P) -> P:
    """Where the image shards of a data folder are."""
    return data_dir / "ilias" / VERSION


def texts_folder(data_dir: P) -> P:
    """Where the text shard of a data folder is."""
    return data_dir / "ilias_text" / VERSION


def shard_path(data_dir: P, split: str, number: int, num_shards: int) -> P:
    """Where shard `number` of a split is."""
    name = f"ilias-{split}.array_record-{number:05d}-of-{num_shards:05d}"
    return images_folder(data_dir) / name


def inventory_path(data_dir: P, split: str, number: int, num_shards: int) -> P:
    """Where the inventory of a shard is."""
    name = f"{split}-{number:05d}-of-{num_shards:05d}.json"
    return images_folder(data_dir) / "inventory" / name
