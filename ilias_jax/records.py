"""What a shard holds: one record for every image, one for every text query."""

import dataclasses
from typing import Literal

Split = Literal["image_query", "positive", "distractor"]
IMAGE_SPLITS: tuple[Split, ...] = ("image_query", "positive", "distractor")
# Of the published dataset; distractors by subset.
OFFICIAL_CORE = {"image_query": 1_232, "text_query": 1_000, "positive": 4_715}
OFFICIAL_DISTRACTORS = {"mini": 5_000_000, "full": 100_000_000}
Box = tuple[float, float, float, float]  # x, y, width, height in pixels of the upright image


@dataclasses.dataclass(frozen=True)
class ImageRecord:
    """One stored image.

    Attributes:
        image_id: the official id, such as "mug_012/pos/P012_03.jpg" or "yfcc_000.tar/000123".
        jpeg: the encoded bytes, as published.
        boxes: the query object's boxes; empty for distractors. Pictures in reports show them; no
            embedding depends on them unless `views.crop_to_box` or `views.mask_outside_box` is on.
        number: position in its shard, 0 based.
    """

    image_id: str
    jpeg: bytes
    boxes: tuple[Box, ...] = ()
    number: int = 0


@dataclasses.dataclass(frozen=True)
class TextRecord:
    """One text query: the official id, such as "mug_012/query/T012.txt", and the whole file."""

    query_id: str
    text: str


@dataclasses.dataclass(frozen=True)
class Shard:
    """One ArrayRecord file of a split.

    Attributes:
        split: the role of its images.
        number: its place among the split's shards, from 0.
        num_shards: how many shards the split has.
        num_records: images in this one.
        file_name: name of the file, without folder.
        num_bytes: size of the file.
        digest: sha256 of the file's beginning and end; the end indexes every record.
    """

    split: Split
    number: int
    num_shards: int
    num_records: int
    file_name: str
    num_bytes: int
    digest: str


def follows_exif(split: Split) -> bool:
    """Whether images of a split are turned by their EXIF orientation: core images only."""
    return split != "distractor"
