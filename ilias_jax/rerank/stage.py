"""The stage of re-ranking: from the shortlists of a search to the final order.

Blocks of queries are scored and kept one by one, so that a run that was stopped goes on with the
next block, and processes share them.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Callable
from typing import cast

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils

from ilias_jax.config import BenchmarkConfig
from ilias_jax.dataset.reader import IliasDataset
from ilias_jax.embeddings.extract import EmbeddedDataset
from ilias_jax.embeddings.file import short_hash
from ilias_jax.errors import UserError
from ilias_jax.files import read_npz, write_npz
from ilias_jax.model import Model
from ilias_jax.profiling import StageTime, Timings
from ilias_jax.progress import track
from ilias_jax.rerank.descriptors import Descriptors, mutual_matches
from ilias_jax.rerank.extract import Extractor, extract_descriptors, make_extractor
from ilias_jax.rerank.order import reorder
from ilias_jax.rerank.reranker import RERANKERS, LocalReranker, Reranker, check_method
from ilias_jax.search.pipeline import Section
from ilias_jax.search.ranking import Ranking

RERANKED = "image_to_image_reranked"  # the section of the result
_MATCHES = 20  # that a report draws of a pair of images
_BLOCK_BYTES = 2**29  # of what is compared of a block's images, on the host


@dataclasses.dataclass(frozen=True)
class Reranking:
    """What re-ranks: the method, and what makes its descriptors; None where it compares vectors."""

    reranker: Reranker
    extractor: Extractor | None


def resolve_reranking(config: BenchmarkConfig, model: Model, mesh: jax.sharding.Mesh) -> Reranking:
    """Reads and checks everything that re-ranking needs; compiles nothing.

    Args:
        config: of the run, with a method.
        model: the run's own.
        mesh: of this process's devices.

    Raises:
        UserError: the method is not known, its weights, detector or model are missing or wrong, or
            do not fit each other.
    """
    check_method(config.rerank.method)
    reranker = RERANKERS[config.rerank.method].create(config.rerank, mesh)
    extractor = None
    if reranker.inputs == "descriptors":
        extractor = make_extractor(config, model, cast(LocalReranker, reranker))
    return Reranking(reranker, extractor)


@dataclasses.dataclass(frozen=True, eq=False)
class Reranked:
    """What came of it.

    Attributes:
        ranking: in its new order.
        length: of the shortlists, M.
        scores: [Q, M] float32 of the method, in the old order.
        facts: for the report.
        matches: places in query q and in the database image of an index that match, as
            `mutual_matches` gives them; None where vectors were compared.
    """

    ranking: Ranking
    length: int
    scores: np.ndarray
    facts: dict[str, object]
    matches: Callable[[int, int], np.ndarray] | None


@dataclasses.dataclass(frozen=True, eq=False)
class Compared:
    """What a method compares of Q queries and U images.

    Attributes:
        queries: gives those of queries [B], numbers in [0, Q).
        images: gives those of images [n], numbers in [0, U).
        image_bytes: of one image.
        facts: for the report, and to tell scores of other ones.
    """

    queries: Callable[[np.ndarray], np.ndarray | Descriptors]
    images: Callable[[np.ndarray], np.ndarray | Descriptors]
    image_bytes: int
    facts: dict[str, object]


def rerank(
    config: BenchmarkConfig,
    mesh: jax.sharding.Mesh,
    reranking: Reranking,
    dataset: IliasDataset,
    embedded: EmbeddedDataset,
    section: Section,
    ranking: Ranking,
    workdir: epath.Path,
    timings: Timings,
) -> Reranked:
    """Re-ranks the first entries of a ranking.

    All processes of a distributed program call it with the same ranking.

    Args:
        config: of the run.
        mesh: of this process's devices.
        reranking: the method.
        dataset: has the images.
        embedded: the run's embeddings, whose rows the ranking's indices are.
        section: what was searched.
        ranking: of Q queries, lists of K; at most the first `rerank.shortlist` are re-ranked.
        workdir: receives `descriptors/` and `rerank/`.
        timings: receive the stages.

    Returns:
        The ranking in its new order.

    Raises:
        UserError: an image or a file cannot be read.
    """
    length = min(config.rerank.shortlist, ranking.indices.shape[1])
    indices, similarities = ranking.indices[:, :length], ranking.scores[:, :length]
    wanted, positions = np.unique(indices, return_inverse=True)
    positions = positions.reshape(indices.shape)
    reranker, extractor = reranking.reranker, reranking.extractor
    if extractor is None:
        compared = _vectors(section, wanted)
    else:
        files = extractor, mesh, config, workdir / "descriptors", timings
        compared = _descriptors(dataset, embedded, wanted, *files)
    named = {"method": config.rerank.method, **reranker.facts()}
    facts = {**named, "shortlist": length, "num_images": len(wanted), **compared.facts}
    blocks = _Blocks(reranker, compared, positions, similarities)
    scores = blocks.score(_folder(workdir / "rerank", facts, ranking, length), timings)
    ordered = reorder(ranking, reranker.combine(similarities, scores))
    matches = functools.partial(_matches, compared, wanted) if extractor else None
    return Reranked(ordered, length, scores, facts, matches)


def _matches(compared: Compared, wanted: np.ndarray, query: int, index: int) -> np.ndarray:
    sides = compared.queries(np.array([query])), compared.images(np.searchsorted(wanted, [index]))
    return mutual_matches(cast(Descriptors, sides[0]), cast(Descriptors, sides[1]), _MATCHES)


def _vectors(section: Section, wanted: np.ndarray) -> Compared:
    vectors, database = section.queries, section.database
    size = vectors.shape[1] * np.dtype(np.float32).itemsize
    return Compared(
        lambda queries: vectors[queries].astype(np.float32),
        lambda images: database.rows(wanted[images]).astype(np.float32),
        size,
        {"vectors": hashlib.sha256(section.origin.encode()).hexdigest()[:12]},
    )


def _descriptors(
    dataset: IliasDataset,
    embedded: EmbeddedDataset,
    wanted: np.ndarray,
    extractor: Extractor,
    mesh: jax.sharding.Mesh,
    config: BenchmarkConfig,
    folder: epath.Path,
    timings: Timings,
) -> Compared:
    """Descriptors of all queries and of the wanted images, extracted where they are not there."""
    files, shards = embedded.images["image_query"], embedded.shards["image_query"]
    places = extractor, mesh, config, folder, timings
    queries = extract_descriptors(dataset, (files, shards), np.arange(files.num_rows()), *places)
    database = embedded.database, embedded.database_shards
    images = extract_descriptors(dataset, database, wanted, *places)
    facts: dict[str, object] = {
        "model": extractor.model.name,
        "resolution": extractor.model.preprocessing.resolution,
        "detector_sha256": extractor.detector.sha256 if extractor.detector else None,
        "query_descriptors": queries.count,
        "database_descriptors": images.count,
        "crop_queries": extractor.crop_queries,
        "descriptors": [short_hash(each.fingerprint) for each in (queries, images)],
    }
    return Compared(queries.read, images.read, images.image_bytes, facts)


def _folder(
    folder: epath.Path, facts: dict[str, object], ranking: Ranking, length: int
) -> epath.Path:
    """Where the scores of these shortlists are kept."""
    digest = hashlib.sha256("\n".join(ranking.query_ids).encode())
    for array in (ranking.indices, ranking.scores):
        digest.update(np.ascontiguousarray(array[:, :length]).tobytes())
    later = ("similarity_weight", "temperature")  # which the scores do not depend on
    content = {key: value for key, value in facts.items() if key not in later}
    return folder / short_hash({**content, "shortlists": digest.hexdigest()})


@dataclasses.dataclass(frozen=True, eq=False)
class _Blocks:
    """All shortlists [Q, M], by blocks of queries."""

    reranker: Reranker
    compared: Compared
    positions: np.ndarray
    similarities: np.ndarray

    def score(self, folder: epath.Path, timings: Timings) -> np.ndarray:
        """Scores what no file has yet; returns all scores [Q, M] float32."""
        count, length = self.positions.shape
        size = max(1, _BLOCK_BYTES // max(1, length * self.compared.image_bytes))
        blocks = [range(first, min(first + size, count)) for first in range(0, count, size)]
        paths = [folder / f"{b.start:06d}-{b.stop - 1:06d}.npz" for b in blocks]
        turn = slice(jax.process_index(), None, jax.process_count())
        with timings.stage("rerank") as timing, track("re-rank", count) as advance:
            for block, path in list(zip(blocks, paths, strict=True))[turn]:
                self._score_block(block, path, timing)
                advance(len(block))
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices("re-ranked")
        shapes = ((len(block), length) for block in blocks)
        return np.concatenate([_read(*each) for each in zip(paths, shapes, strict=True)])

    def _score_block(self, block: range, path: epath.Path, timing: StageTime) -> None:
        if path.exists():
            timing.skipped += len(block)
            return
        queries = np.arange(block.start, block.stop)
        images, indices = np.unique(self.positions[queries], return_inverse=True)
        scores = self.reranker.score(
            self.compared.queries(queries),
            self.compared.images(images),
            indices.reshape(len(queries), -1),
            self.similarities[queries],
        )
        write_npz(path, scores=scores.astype(np.float32))
        timing.items += len(block)


def _read(path: epath.Path, shape: tuple[int, int]) -> np.ndarray:
    try:
        scores = read_npz(path)["scores"]
        if scores.shape != shape or scores.dtype != np.float32 or not np.isfinite(scores).all():
            raise ValueError(f"its scores are {scores.dtype}{list(scores.shape)}")
    except (KeyError, ValueError) as error:
        raise UserError(f"{path} is damaged ({error}); remove it and run again") from error
    return scores
