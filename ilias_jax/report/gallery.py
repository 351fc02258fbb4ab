"""The best and the worst queries with the pictures that were found for them, as thumbnails."""

import base64
import bisect
import dataclasses
import io
import itertools
import struct
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import cast

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
from ilias_jax.rerank.stage import RERANKED, Reranked
from ilias_jax.search.ranking import Ranking

GROUPS = ("best", "worst", "gained", "lost")
MAX_SIDE = 160  # pixels of a thumbnail
_GAP = 24  # pixels between two pictures that match
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
class Matches:
    """A database image that re-ranking moved up, and where it matches the query."""

    image_id: str
    before: int  # rank; 1 is the best
    after: int
    is_positive: bool
    picture: Picture
    # [n, 4] shares of height and width: row and column in the query, row and column in the image.
    places: np.ndarray
    in_boxes: bool  # whether those of the query are shares of its boxes


@dataclasses.dataclass(frozen=True)
class GalleryEntry:
    """One query with its top results."""

    section: str  # "image_to_image" or "text_to_image"
    group: str  # one of GROUPS
    query_id: str
    text: str | None  # of a text query
    picture: Picture | None  # of an image query
    ap: float  # average precision in percent
    num_positives: int  # database images that show the query's object
    results: tuple[GalleryResult, ...]  # best first
    ap_before: float | None = None  # likewise, of a query that was re-ranked
    matches: Matches | None = None


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
    return _choose(metrics.query_ids, metrics.aps, count, GROUPS[:2])


def choose_changed(before: Metrics, after: Metrics, count: int) -> list[tuple[str, int]]:
    """("gained" | "lost", query) of the `count` APs that rose and that fell most, likewise."""
    change = after.aps - before.aps
    chosen = _choose(after.query_ids, change, count, GROUPS[2:])
    return [
        (group, q) for group, q in chosen if (change[q] > 0 if group == "gained" else change[q] < 0)
    ]


def _choose(
    query_ids: Sequence[str], values: np.ndarray, count: int, groups: Sequence[str]
) -> list[tuple[str, int]]:
    """(first group | second group, query) of the highest and of the lowest values."""
    order = np.argsort(-values, kind="stable")
    chosen: list[tuple[str, int]] = []
    seen: set[str] = set()
    for group, queries in zip(groups, (order, order[::-1]), strict=True):
        fresh = 0
        for query in map(int, queries):
            name = object_of(query_ids[query])
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
    reranked: Reranked | None = None,
) -> list[GalleryEntry]:
    """The queries that a report shows, of every section that has a ranking.

    `results` and `rankings` are by section; of one that is re-ranked those are shown whose APs
    changed most.
    """
    read_row = _reader(dataset, embedded.database, embedded.database_shards)
    images, shards = embedded.images["image_query"], embedded.shards["image_query"]
    read_query = _reader(dataset, images, shards)
    texts = {query.query_id: query.text for query in dataset.text_queries()}
    positives = Counter(object_of(image_id) for image_id in truth.positive_ids)
    entries = []
    for section, ranking in rankings.items():
        metrics, is_text = results[section], section == "text_to_image"
        for group, query in _chosen(section, results, config.gallery_queries):
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
            if section == RERANKED and reranked is not None:
                before = rankings["image_to_image"].indices[query]
                moved = _moved(group, query, before, reranked, truth, read_row)
                ap = float(results["image_to_image"].aps[query])
                entry = dataclasses.replace(entry, ap_before=ap, matches=moved)
            entries.append(entry)
    return entries


def _chosen(section: str, results: dict[str, Metrics], count: int) -> list[tuple[str, int]]:
    if section == RERANKED:
        return choose_changed(results["image_to_image"], results[section], count)
    return choose_queries(results[section], count)


def _moved(
    group: str,
    query: int,
    before: np.ndarray,
    reranked: Reranked,
    truth: GroundTruth,
    read_row: _Reader,
) -> Matches | None:
    """The image that rose most: a positive of a query that gained, another of one that lost."""
    if reranked.matches is None:
        return None
    name = object_of(reranked.ranking.query_ids[query])
    shown = {row for row, image_id in enumerate(truth.positive_ids) if object_of(image_id) == name}
    old = {row: rank for rank, row in enumerate(before.tolist(), start=1)}
    after = reranked.ranking.indices[query][: reranked.length].tolist()
    rises = [
        (1 / rank - 1 / old[row], rank, row)
        for rank, row in enumerate(after, start=1)
        if (row in shown) == (group == "gained")
    ]
    rise, rank, row = max(rises, default=(0.0, 0, 0))
    if rise <= 0:
        return None
    shard, record = read_row(row)
    return Matches(
        record.image_id,
        old[row],
        rank,
        row in shown,
        _picture(shard, record),
        reranked.matches(query, row),
        bool(reranked.facts["crop_queries"]),
    )


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


@dataclasses.dataclass(frozen=True)
class MatchFigure:
    """Two thumbnails beside each other; matches as lines between them, in pixels of the figure."""

    query: Thumbnail
    image: Thumbnail
    width: int
    height: int
    lines: tuple[tuple[float, float, float, float], ...]  # x, y in the query, x, y in the image


def match_figure(picture: Picture, matches: Matches) -> MatchFigure | Placeholder:
    """What shows where a query and a database image match."""
    query, image = thumbnail(picture), thumbnail(matches.picture)
    if isinstance(query, Placeholder) or isinstance(image, Placeholder):
        return query if isinstance(query, Placeholder) else cast(Placeholder, image)
    left, top, width, height = _shown_part(query, matches.in_boxes)
    offset = query.width + _GAP
    lines = tuple(
        (
            left + width * float(x),
            top + height * float(y),
            offset + image.width * float(u),
            image.height * float(v),
        )
        for y, x, v, u in matches.places
    )
    total = offset + image.width, max(query.height, image.height)
    return MatchFigure(query, image, *total, lines)


def _shown_part(query: Thumbnail, in_boxes: bool) -> Box:
    """What the places of a query are shares of, in pixels of its thumbnail."""
    boxes = np.array(query.boxes if in_boxes and query.boxes else [(0, 0, 100, 100)]) / 100
    low, high = boxes[:, :2].min(axis=0), (boxes[:, :2] + boxes[:, 2:]).max(axis=0)
    (left, top), (width, height) = low, high - low
    return left * query.width, top * query.height, width * query.width, height * query.height


def _percent_box(box: Box, size: tuple[int, int]) -> Box:
    x, y, w, h = box
    left, right = (100 * min(max(v / size[0], 0.0), 1.0) for v in (x, x + w))
    top, bottom = (100 * min(max(v / size[1], 0.0), 1.0) for v in (y, y + h))
    return left, top, right - left, bottom - top
