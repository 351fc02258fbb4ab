"""Scores of re-ranked pairs, `{query: {database id: score}}`, in and out and mixed into lists.

So the authors of ILIAS exchange a re-ranking: a program sorts similarities, scores the first pairs
of every list and writes these pairs alone; the final score of a pair is
lambda * similarity + (1 - lambda) * score, with lambda 0.5.
"""

import collections
import dataclasses
from collections.abc import Sequence

import numpy as np

from ilias_jax.errors import UserError, quoted
from ilias_jax.metrics.lists import SimilarityLists
from ilias_jax.rerank.order import reorder
from ilias_jax.search.ranking import Ranking

USUAL_WEIGHT = 0.5


@dataclasses.dataclass(frozen=True, eq=False)
class Mixture:
    """What came of mixing.

    Attributes:
        ranking: in its new order; indices are numbers of the lists' database ids.
        num_pairs: that were mixed.
        shortest, longest: numbers of pairs of a list.
        num_skipped: entries of lists that had no pair, though one behind them had.
    """

    ranking: Ranking
    num_pairs: int
    shortest: int
    longest: int
    num_skipped: int

    def describe(self) -> str:
        """One line."""
        lengths = f"{self.shortest:,}"
        if self.longest > self.shortest:
            lengths += f" to {self.longest:,}"
        line = f"{self.num_pairs:,} pairs, {lengths} a list"
        if self.num_skipped:
            line += f"; {self.num_skipped:,} entries before the last pair had none and come behind"
        return line


def to_ranking(lists: SimilarityLists) -> Ranking:
    """Lists of one length as a ranking of the numbers of their database ids.

    Raises:
        UserError: there is no list, a query or an id of a list comes twice, lists differ in length,
            or a score is no finite float32.
    """
    check_once(lists, "similarities")
    lengths = lists.lengths
    if lengths.min() != lengths.max() or not lengths[0]:
        raise UserError(
            f"similarities: lists have {lengths.min():,} to {lengths.max():,} entries; to be "
            "re-ranked all must have the same number, at least 1"
        )
    lists = lists.descending()
    shape = (len(lists.query_ids), int(lengths[0]))
    with np.errstate(over="ignore"):
        scores = lists.scores.astype(np.float32)
    _check_finite(lists, scores, "similarities")
    indices = lists.entries.astype(np.int32).reshape(shape)
    return Ranking(lists.query_ids, indices, scores.reshape(shape))


def check_once(lists: SimilarityLists, place: str) -> None:
    """Raises UserError unless there are lists, each query is once there and each id in a list."""
    if not lists.query_ids:
        raise UserError(f"{place}: there is no list")
    if twice := _repeated(lists.query_ids):
        raise UserError(
            f"{place}: {len(twice):,} queries have several lists, first {quoted(twice[0])}; join "
            "them to one"
        )
    _check_finite(lists, lists.scores, place)
    if (again := np.flatnonzero(~lists.first_of_ids())).size:
        first = _name(lists, again[0])
        raise UserError(f"{place}: {len(again):,} entries come twice in a list, first {first}")


def _repeated(names: Sequence[str]) -> list[str]:
    return [name for name, count in collections.Counter(names).items() if count > 1]


def _check_finite(lists: SimilarityLists, scores: np.ndarray, place: str) -> None:
    if (wrong := np.flatnonzero(~np.isfinite(scores))).size:
        raise UserError(
            f"{place}: {len(wrong):,} scores are NaN, infinite or too large for float32, first "
            f"{lists.scores[wrong[0]]} of {_name(lists, wrong[0])}"
        )


def _name(lists: SimilarityLists, entry: int) -> str:
    query = lists.query_ids[int(lists.rows[entry])]
    return f"{quoted(lists.database_ids[lists.entries[entry]])} of {quoted(query)}"


def mix(lists: SimilarityLists, pairs: SimilarityLists, weight: float, place: str) -> Mixture:
    """Sorts the pairs of every list by weight * similarity + (1 - weight) * score, in float64.

    They come first, equal ones in the order of the list. What has no pair comes behind them in its
    old order, as it would be lost to whoever takes the pairs alone.

    Args:
        lists: similarities.
        pairs: scores.
        weight: lambda in [0, 1].
        place: of the pairs, for messages.

    Raises:
        UserError: as `to_ranking`, or a query or pair is only in one of both.
    """
    ranking = to_ranking(lists)
    check_once(pairs, place)
    _check_queries(ranking.query_ids, pairs, place)
    own = _aligned(ranking, lists.database_ids, pairs, place)
    similarities = lists.descending().scores.reshape(own.shape)
    mixed = weight * similarities + (1 - weight) * own
    parts = [_front(ranking, row, mixed[row]) for row in range(len(mixed))]
    has_pair = ~np.isnan(own)
    counts = has_pair.sum(axis=1)
    last = own.shape[1] - has_pair[:, ::-1].argmax(axis=1)
    indices, scores = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    joined = Ranking(ranking.query_ids, indices, scores)
    sums = (counts.sum(), counts.min(), counts.max(), (last - counts).sum())
    return Mixture(joined, *map(int, sums))


def _check_queries(queries: Sequence[str], pairs: SimilarityLists, place: str) -> None:
    paired = {q for q, length in zip(pairs.query_ids, pairs.lengths, strict=True) if length}
    for names, problem in (
        (sorted(set(pairs.query_ids) - set(queries)), "have pairs and no list"),
        ([query for query in queries if query not in paired], "have a list and no pair"),
    ):
        if names:
            raise UserError(
                f"{place}: {len(names):,} queries {problem}, first {quoted(names[0])}; both files "
                "must be of the same queries"
            )


def _aligned(
    ranking: Ranking, names: Sequence[str], pairs: SimilarityLists, place: str
) -> np.ndarray:
    """[Q, K] float64 score of each entry's pair, NaN where it has none."""
    rows = {query: row for row, query in enumerate(ranking.query_ids)}
    numbers = {name: number for number, name in enumerate(names)}
    row = np.array([rows[query] for query in pairs.query_ids], np.int64)[pairs.rows]
    number = np.array([numbers.get(name, -1) for name in pairs.database_ids], np.int64)
    number = number[pairs.entries]
    keys = np.where(number < 0, -1, row * len(names) + number)
    listed = np.arange(len(rows))[:, None] * len(names) + ranking.indices
    if (outside := np.flatnonzero(~np.isin(keys, listed))).size:
        raise UserError(
            f"{place}: {len(outside):,} of {len(keys):,} pairs are in no list of similarities, "
            f"first {_name(pairs, outside[0])}"
        )
    order = np.argsort(keys)
    at = order[np.searchsorted(keys, listed, sorter=order).clip(max=len(keys) - 1)]
    return np.where(keys[at] == listed, pairs.scores[at], np.nan)


def _front(ranking: Ranking, row: int, mixed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Indices and scores [1, K] of a list with the entries first that have a mixed score."""
    absent = np.isnan(mixed)
    order = np.argsort(absent, kind="stable")
    count = int((~absent).sum())
    scores = ranking.scores[row, order]
    scores[:count] = ranking.scores[row, 0]  # which `reorder` does not look at
    moved = Ranking((ranking.query_ids[row],), ranking.indices[row][None, order], scores[None])
    found = reorder(moved, mixed[None, order[:count]])
    return found.indices, found.scores


def pairs_of(ranking: Ranking, scores: np.ndarray) -> Ranking:
    """The first M entries of lists with other scores, best first, as a file of pairs has them.

    Args:
        ranking: lists.
        scores: [Q, M] float32.
    """
    order = np.argsort(-scores, axis=1, kind="stable")
    indices = np.take_along_axis(ranking.indices[:, : scores.shape[1]], order, axis=1)
    return Ranking(ranking.query_ids, indices, np.take_along_axis(scores, order, axis=1))
