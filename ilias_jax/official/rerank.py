"""Re-ranking of similarity files of any program, by descriptors or vectors that files hold."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, cast

import jax
import numpy as np
from etils import epath

from ilias_jax.embeddings.sources import Concatenated
from ilias_jax.errors import UserError, quoted
from ilias_jax.metrics.lists import SimilarityLists
from ilias_jax.official.features import open_features
from ilias_jax.official.local_features import LocalFeatureFile, open_local_features
from ilias_jax.rerank.descriptors import Descriptors, concatenated, to_storage
from ilias_jax.rerank.order import reorder
from ilias_jax.rerank.reranker import LocalReranker, Reranker
from ilias_jax.search.ranking import Ranking

_IMAGES_AT_ONCE = 64  # that are projected together
Compared = np.ndarray | Descriptors


@dataclasses.dataclass(frozen=True, eq=False)
class Source:
    """What a method compares of the images of some files.

    Attributes:
        names: id -> number of the image.
        read: gives what it compares of images [m].
        places: the files, for messages.
    """

    names: dict[str, int]
    read: Callable[[np.ndarray], Compared]
    places: str

    def find(self, ids: Sequence[str]) -> np.ndarray:
        """Numbers [m] of images; a UserError that names those that are in no file."""
        if missing := [name for name in ids if name not in self.names]:
            raise UserError(
                f"{len(missing):,} of {len(ids):,} images to compare are not in {self.places}, "
                f"first {', '.join(map(quoted, missing[:3]))}"
            )
        return np.array([self.names[name] for name in ids])


def rerank_lists(
    ranking: Ranking,
    names: Sequence[str],
    length: int,
    reranker: Reranker,
    queries: Source,
    database: Source,
) -> Ranking:
    """Re-ranks the first entries of lists, a query at a time.

    Args:
        ranking: whose indices are numbers of `names`.
        names: ids of database images.
        length: M, at most that of the lists.
        reranker: the method.
        queries, database: what it compares.

    Raises:
        UserError: an image is in no file, or cannot be used.
    """
    rows = queries.find(ranking.query_ids)
    wanted = np.unique(ranking.indices[:, :length])
    images = np.zeros(len(names), np.int64)
    images[wanted] = database.find([names[index] for index in wanted])
    scores = []
    for row, indices, similarities in zip(rows, ranking.indices, ranking.scores, strict=True):
        chosen = images[indices[:length]]
        found = reranker.score(
            queries.read(np.array([row])),
            database.read(chosen),
            np.arange(length)[None],
            similarities[None, :length],
        )
        scores.append(found[0])
    raw = np.array(scores, np.float32)
    return reorder(ranking, reranker.combine(ranking.scores[:, :length], raw))


def to_ranking(lists: SimilarityLists) -> Ranking:
    """Lists of one length as a ranking of their database ids.

    Raises:
        UserError: lists differ in length, an id comes twice in a list, or a score is not finite.
    """
    lists = lists.descending()
    lengths = lists.lengths
    if len(set(lengths.tolist())) != 1:
        raise UserError(
            f"lists have {lengths.min():,} to {lengths.max():,} entries; to be re-ranked all must "
            "have the same number"
        )
    shape = (len(lists.query_ids), int(lengths[0]))
    try:
        indices = lists.entries.astype(np.int32).reshape(shape)
        return Ranking(lists.query_ids, indices, lists.scores.astype(np.float32).reshape(shape))
    except ValueError as error:
        raise UserError(f"the lists cannot be re-ranked: {error}") from error


def check_length(ranking: Ranking, length: int) -> None:
    """Raises UserError if shortlists of this length are longer than the lists."""
    most = ranking.indices.shape[1]
    if not 1 <= length <= most:
        raise UserError(f"--shortlist {length} is not allowed; lists have {most:,} entries")


def open_source(
    paths: Sequence[epath.Path],
    ids: Sequence[epath.Path],
    reranker: Reranker,
    count: int,
    is_query: bool,
) -> Source:
    """What a method compares of files: feature files for vectors, else local descriptors.

    Args:
        paths: the files.
        ids: text files that name the rows of each; empty if the files do.
        reranker: the method.
        count: at most so many descriptors of an image.
        is_query: whether the images are queries, whose descriptors are not rounded.

    Raises:
        UserError: a file is missing, damaged, of another layout, or of descriptors of another
            length than the method takes.
    """
    places = ", ".join(map(str, paths[:3]))
    if reranker.inputs == "vectors":
        vectors = Concatenated([open_features(path) for path in paths])
        names = {name: number for number, name in enumerate(vectors.ids())}
        return Source(names, lambda rows: vectors.rows(rows).astype(np.float32), places)
    if ids and len(ids) != len(paths):
        raise UserError(f"{len(ids)} files of ids for {len(paths)} files of descriptors: {places}")
    local = cast(LocalReranker, reranker)
    opened = [
        open_local_features(*each) for each in zip(paths, ids or [None] * len(paths), strict=True)
    ]
    for file in opened:
        _check_file(file, local)
    names = {}
    for file in opened:
        for name in file.ids:
            names.setdefault(name, len(names))
    if len(names) != sum(len(file.ids) for file in opened):
        raise UserError(f"ids come in several of {places}")
    read = functools.partial(_read, opened, _Projector(local, is_query), count)
    return Source(names, read, places)


def _check_file(file: LocalFeatureFile, reranker: LocalReranker) -> None:
    if file.is_binary:
        if reranker.storage != "bits":
            raise UserError(f"{file.path} holds bits, and the method compares numbers")
        return  # the projection was applied before they were written
    if reranker.input_dim not in (None, file.dim):
        raise UserError(
            f"{file.path} holds descriptors of {file.dim} channels, and the method's weights take "
            f"{reranker.input_dim}; they belong to another model"
        )


class _Projector:
    """Projects descriptors as extraction does before it stores them."""

    def __init__(self, reranker: LocalReranker, is_query: bool) -> None:
        self._reranker, self._project = reranker, jax.jit(reranker.project)
        bits = reranker.storage == "bits"
        self._storage: Any = "bits" if bits else "float32" if is_query else "float16"

    def __call__(self, found: Descriptors) -> Descriptors:
        if found.is_binary:
            return found
        parts = []
        for start in range(0, len(found), _IMAGES_AT_ONCE):
            values = found.values[start : start + _IMAGES_AT_ONCE].astype(np.float32)
            padded = np.zeros((_IMAGES_AT_ONCE, *values.shape[1:]), np.float32)
            padded[: len(values)] = values
            projected = self._project(self._reranker.parameters, padded)
            parts.append(np.asarray(jax.device_get(projected))[: len(values)])
        values = np.where(found.mask[..., None], np.concatenate(parts), np.float32(0))
        return dataclasses.replace(found, values=to_storage(values, self._storage))


def _read(
    opened: Sequence[LocalFeatureFile], project: _Projector, count: int, rows: np.ndarray
) -> Descriptors:
    """Descriptors of images [m], numbered through all files."""
    starts = np.cumsum([0, *(len(file.ids) for file in opened)])
    part = np.searchsorted(starts, rows, side="right") - 1
    order, found = [], []
    for number in np.unique(part):
        members = np.flatnonzero(part == number)
        order.append(members)
        read = opened[number].read(rows[members] - starts[number]).strongest(count)
        found.append(_padded(project(read), count))
    back = np.argsort(np.concatenate(order))
    return concatenated(found).take(back)


def _padded(found: Descriptors, count: int) -> Descriptors:
    """The same with room for `count`: ELViS's scores depend on how much there is."""
    missing = (0, count - found.values.shape[1])
    values, locations = (
        np.pad(array, ((0, 0), missing, (0, 0))) for array in (found.values, found.locations)
    )
    weights = np.pad(found.weights, ((0, 0), missing))
    return Descriptors(values, locations, weights, found.counts)


def mix(lists: SimilarityLists, pairs: SimilarityLists, weight: float) -> Ranking:
    """Mixes similarities with scores of re-ranked pairs, as the authors of ILIAS do.

    A pair of both files gets weight * similarity + (1 - weight) * score; these come first, the
    other entries of a list behind them in their old order.

    Raises:
        UserError: as `to_ranking`, or a pair is in no list.
    """
    ranking = to_ranking(lists)
    numbers = {name: number for number, name in enumerate(lists.database_ids)}
    rows = {query: row for row, query in enumerate(pairs.query_ids)}
    found = []
    for query, indices, scores in zip(
        ranking.query_ids, ranking.indices, ranking.scores, strict=True
    ):
        one = Ranking((query,), indices[None], scores[None])
        if query in rows:
            entries, own = pairs.content(rows[query])
            chosen = [numbers.get(pairs.database_ids[entry], -1) for entry in entries]
            one = _mixed(one, np.array(chosen, np.int32), own, weight)
        found.append(one)
    if missing := sorted(set(rows) - set(ranking.query_ids)):
        raise UserError(f"{len(missing):,} queries with pairs have no list, first {missing[0]}")
    return Ranking(
        ranking.query_ids,
        np.concatenate([each.indices for each in found]),
        np.concatenate([each.scores for each in found]),
    )


def _mixed(one: Ranking, chosen: np.ndarray, own: np.ndarray, weight: float) -> Ranking:
    """A list [1, K] whose chosen entries come first, by the mixed score."""
    score_of = dict(zip(chosen.tolist(), own.tolist(), strict=True))
    listed = one.indices[0].tolist()
    if outside := set(score_of) - set(listed):
        raise UserError(
            f"{len(outside):,} of {len(chosen):,} re-ranked pairs of {quoted(one.query_ids[0])} "
            "are not in its list"
        )
    is_chosen = np.isin(one.indices[0], chosen)
    order = np.argsort(~is_chosen, kind="stable")
    count = int(is_chosen.sum())
    similarities = one.scores[0, order]
    scores = np.array([score_of[index] for index in one.indices[0, order[:count]].tolist()])
    mixed = weight * similarities[:count] + (1 - weight) * scores
    # The scores of the first do not count any more; they must not lie below the others'.
    similarities[:count] = one.scores[0, 0]
    moved = Ranking(one.query_ids, one.indices[:, order], similarities[None])
    return reorder(moved, mixed[None].astype(np.float32))
