"""Pictures for the report: the best and the worst queries with what was found for them."""

import bisect
import itertools
from collections import Counter

import numpy as np

from ilias_jax.config import ReportConfig
from ilias_jax.dataset.reader import IliasDataset
from ilias_jax.embeddings import EmbeddingFiles, read_numbers
from ilias_jax.extraction import EmbeddedDataset
from ilias_jax.ground_truth import GroundTruth, object_of
from ilias_jax.metrics import Metrics
from ilias_jax.ranking import Ranking
from ilias_jax.records import ImageRecord, Shard, follows_exif
from ilias_jax.report import GalleryEntry, GalleryResult, Picture


def _picture(shard: Shard, record: ImageRecord) -> Picture:
    return Picture(record.jpeg, record.boxes, follows_exif(shard.split))


class _Rows:
    """Finds the record behind a row of several embedding files."""

    def __init__(self, dataset: IliasDataset, files: EmbeddingFiles, shards: list[Shard]) -> None:
        self._dataset, self._shards = dataset, shards
        self._numbers = [read_numbers(path) for path in files.paths]
        self._starts = list(itertools.accumulate((len(n) for n in self._numbers), initial=0))

    def record(self, row: int) -> tuple[Shard, ImageRecord]:
        """The shard and the record of a row."""
        part = bisect.bisect_right(self._starts, row) - 1
        shard = self._shards[part]
        number = int(self._numbers[part][row - self._starts[part]])
        return shard, self._dataset.read_one(shard, number)


def choose_queries(metrics: Metrics, count: int) -> list[tuple[str, int]]:
    """("best" | "worst", query) of the `count` highest and lowest APs, one query an object."""
    order = np.argsort(-metrics.aps, kind="stable")
    chosen: list[tuple[str, int]] = []
    seen: set[str] = set()
    for group, queries in (("best", order), ("worst", order[::-1])):
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
    """The gallery of a report.

    Args:
        results: scores by section, "image_to_image" or "text_to_image".
        rankings: what was found, by section; a section without one is not shown.
        truth: which results are positives.
        dataset: holds the pictures.
        embedded: tells where a database row's picture is.
        config: how many queries and results to show.
    """
    database = _Rows(dataset, embedded.database, embedded.database_shards)
    queries = _Rows(dataset, embedded.images["image_query"], embedded.shards["image_query"])
    texts = {query.query_id: query.text for query in dataset.text_queries()}
    positives = Counter(object_of(image_id) for image_id in truth.positive_ids)
    entries = []
    for section, ranking in rankings.items():
        metrics, is_text = results[section], section == "text_to_image"
        for group, query in choose_queries(metrics, config.gallery_queries):
            query_id = ranking.query_ids[query]
            entries.append(
                GalleryEntry(
                    section=section,
                    group=group,
                    query_id=query_id,
                    text=texts[query_id] if is_text else None,
                    picture=None if is_text else _picture(*queries.record(query)),
                    ap=float(metrics.aps[query]),
                    num_positives=positives[object_of(query_id)],
                    results=_results(ranking, query, database, config.gallery_results),
                )
            )
    return entries


def _results(
    ranking: Ranking, query: int, database: _Rows, count: int
) -> tuple[GalleryResult, ...]:
    """The top results of one query with their pictures."""
    name = object_of(ranking.query_ids[query])
    results = []
    for place, row in enumerate(ranking.indices[query][:count]):
        shard, record = database.record(int(row))
        results.append(
            GalleryResult(
                image_id=record.image_id,
                rank=place + 1,
                score=float(ranking.scores[query, place]),
                is_positive=shard.split == "positive" and object_of(record.image_id) == name,
                picture=_picture(shard, record),
            )
        )
    return tuple(results)
