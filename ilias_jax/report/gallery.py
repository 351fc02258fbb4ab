"""The best and the worst queries with the pictures that were found for them, as thumbnails."""

import base64
import bisect
import dataclasses
import io
import itertools
import struct
from collections import Counter
from collections.abc import Callable, Iterator

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from ilias_jax.config import ReportConfig
from ilias_jax.dataset.ground_truth import GroundTruth, object_of
from ilias_jax.dataset.layout import Box, ImageRecord, Shard, follows_exif
from ilias_jax.dataset.reader import IliasDataset
from ilias_jax.embeddings.extract import EmbeddedDataset
from ilias_jax.embeddings.file import read_numbers
from ilias_jax.embeddings.files import EmbeddingFiles
from ilias_jax.metrics import Metrics
from ilias_jax.search.ranking import Ranking

GROUPS = ("best", "worst")
MAX_SIDE = 160  # pixels of a thumbnail
_QUALITY = 72
_SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations that swap width and height
# What Pillow raises on bytes from the wild, by its own documentation and by trial.
_DECODE_ERRORS = (OSError, SyntaxError, ValueError, struct.error, Image.DecompressionBombError)
_Reader = Callable[[int], tuple[Shard, ImageRecord]]


@dataclasses.dataclass(frozen=True)
class Picture:
    """One encoded picture and the object boxes on it."""

    jpeg: bytes  # as stored in the dataset; may be broken
    boxes: tuple[Box, ...] = ()  # from the top left corner of the upright picture
    exif_transpose: bool = False  # by its EXIF orientation the picture becomes upright


@dataclasses.dataclass(frozen=True)
class GalleryResult:
    """One database image returned for a query; rank 1 is the best, score an inner product."""

    image_id: str
    rank: int
    score: float
    is_positive: bool
    picture: Picture


@dataclasses.dataclass(frozen=True)
class GalleryEntry:
    """One query with its top results."""

    section: str  # "image_to_image" or "text_to_image"
    group: str  # "best" or "worst"
    query_id: str
    text: str | None  # of a text query
    picture: Picture | None  # of an image query
    ap: float  # average precision in percent
    num_positives: int  # database images that show the query's object
    results: tuple[GalleryResult, ...]  # best first


@dataclasses.dataclass(frozen=True)
class Thumbnail:
    """A picture for the page."""

    data_uri: str  # a JPEG of at most MAX_SIDE pixels a side, upright, without metadata
    width: int  # pixels of the thumbnail
    height: int
    boxes: tuple[Box, ...]  # in percent of the picture, clipped to it


@dataclasses.dataclass(frozen=True)
class Placeholder:
    """Stands for a picture that cannot be decoded."""

    reason: str


def choose_queries(metrics: Metrics, count: int) -> list[tuple[str, int]]:
    """("best" | "worst", query) of the `count` highest and lowest APs, one query an object."""
    order = np.argsort(-metrics.aps, kind="stable")
    chosen: list[tuple[str, int]] = []
    seen: set[str] = set()
    for group, queries in zip(GROUPS, (order, order[::-1]), strict=True):
        fresh = 0
        for query in map(int, queries):
            name = object_of(metrics.query_ids[query])
            if fresh < count and name not in seen:
                seen.add(name)
                chosen.append((group, query))
                fresh += 1
    return chosen


def make_gallery(
    results: dict[str, Metrics],
    rankings: dict[str, Ranking],
    truth: GroundTruth,
    dataset: IliasDataset,
    embedded: EmbeddedDataset,
    config: ReportConfig,
) -> list[GalleryEntry]:
    """The queries that a report shows, of every section that has a ranking.

    `results` and `rankings` are by section, "image_to_image" or "text_to_image".
    """
    read_row = _reader(dataset, embedded.database, embedded.database_shards)
    images, shards = embedded.images["image_query"], embedded.shards["image_query"]
    read_query = _reader(dataset, images, shards)
    texts = {query.query_id: query.text for query in dataset.text_queries()}
    positives = Counter(object_of(image_id) for image_id in truth.positive_ids)
    entries = []
    for section, ranking in rankings.items():
        metrics, is_text = results[section], section == "text_to_image"
        for group, query in choose_queries(metrics, config.gallery_queries):
            query_id = ranking.query_ids[query]
            entry = GalleryEntry(
                section=section,
                group=group,
                query_id=query_id,
                text=texts[query_id] if is_text else None,
                picture=None if is_text else _picture(*read_query(query)),
                ap=float(metrics.aps[query]),
                num_positives=positives[object_of(query_id)],
                results=tuple(_results(ranking, query, read_row, config.gallery_results)),
            )
            entries.append(entry)
    return entries


def _reader(dataset: IliasDataset, files: EmbeddingFiles, shards: list[Shard]) -> _Reader:
    numbers = [read_numbers(path) for path in files.paths]
    starts = list(itertools.accumulate(map(len, numbers), initial=0))

    def read(row: int) -> tuple[Shard, ImageRecord]:
        part = bisect.bisect_right(starts, row) - 1
        number = int(numbers[part][row - starts[part]])
        return shards[part], dataset.read_one(shards[part], number)

    return read


def _results(
    ranking: Ranking, query: int, read_row: _Reader, count: int
) -> Iterator[GalleryResult]:
    name, scores = object_of(ranking.query_ids[query]), ranking.scores[query]
    for rank, row in enumerate(ranking.indices[query][:count], start=1):
        shard, record = read_row(int(row))
        is_positive = shard.split == "positive" and object_of(record.image_id) == name
        score, picture = float(scores[rank - 1]), _picture(shard, record)
        yield GalleryResult(record.image_id, rank, score, is_positive, picture)


def _picture(shard: Shard, record: ImageRecord) -> Picture:
    return Picture(record.jpeg, record.boxes, follows_exif(shard.split))


def thumbnail(picture: Picture) -> Thumbnail | Placeholder:
    """Returns the picture's thumbnail, or a placeholder that says why there is none."""
    try:
        small, full_size = _decode(picture)
    except UnidentifiedImageError:
        # Its own message holds a memory address, which would differ from run to run.
        return Placeholder(f"not a known picture format ({len(picture.jpeg):,} bytes)")
    except _DECODE_ERRORS as error:
        return Placeholder(f"{type(error).__name__}: {error}")
    encoded = io.BytesIO()
    small.save(encoded, "JPEG", quality=_QUALITY, optimize=True)
    data = base64.b64encode(encoded.getvalue()).decode("ascii")
    boxes = tuple(_percent_box(box, full_size) for box in picture.boxes)
    return Thumbnail(f"data:image/jpeg;base64,{data}", small.width, small.height, boxes)


def _decode(picture: Picture) -> tuple[Image.Image, tuple[int, int]]:
    """Returns the small upright picture and the size in pixels of the large upright one."""
    with Image.open(io.BytesIO(picture.jpeg)) as opened:
        width, height = opened.size
        orientation = opened.getexif().get(ExifTags.Base.Orientation, 1)
        opened.draft("RGB", (2 * MAX_SIDE, 2 * MAX_SIDE))
        upright = ImageOps.exif_transpose(opened) if picture.exif_transpose else opened
        small = upright.convert("RGB")
    small.thumbnail((MAX_SIDE, MAX_SIDE))
    small.info.clear()
    sideways = picture.exif_transpose and orientation in _SIDEWAYS
    return small, (height, width) if sideways else (width, height)


def _percent_box(box: Box, size: tuple[int, int]) -> Box:
    x, y, w, h = box
    left, right = (100 * min(max(v / size[0], 0.0), 1.0) for v in (x, x + w))
    top, bottom = (100 * min(max(v / size[1], 0.0), 1.0) for v in (y, y + h))
    return left, top, right - left, bottom - top
