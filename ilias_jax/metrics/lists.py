"""Scores the lists of a similarity file on the host, as the official evaluator does.

A query has a handful of positives among a thousand entries, and only where these stand matters:
their rank within a group is their position less the removed positives before it. So all queries and
groups are a few numpy operations over the found positives; starting a device would take longer.
Scores are compared as float64, which holds those of any file exactly.
"""

import dataclasses
import itertools
from typing import NamedTuple

import numpy as np

from ilias_jax.ground_truth import GroundTruth
from ilias_jax.metrics.checks import check_arguments
from ilias_jax.metrics.groups import Labels, make_labels
from ilias_jax.metrics.host_bootstrap import cluster_intervals
from ilias_jax.metrics.naming import name_statistics
from ilias_jax.metrics.result import Metrics
from ilias_jax.similarity_lists import SimilarityLists


@dataclasses.dataclass(frozen=True, eq=False)
class ListScores:
    """The numbers of one query kind.

    Attributes:
        metrics: see `Metrics`; its `oracle` is the retrieval recall@k.
        official_oracle: percent, what the official evaluator calls oracle: mean(found among the
            first k entries) * k / P. For lists shorter than k it is too high by k / length.
        shortest: the number of entries of the shortest list.
        num_ambiguous: queries where equal scores on both sides of rank k, a positive among them,
            leave open what is cut off, in the whole list or in a group. The order of the file
            decides here; the official evaluator's unstable sort may decide otherwise.
    """

    metrics: Metrics
    official_oracle: float
    shortest: int
    num_ambiguous: int


def score_lists(
    lists: SimilarityLists,
    ground_truth: GroundTruth,
    k: int,
    num_resamples: int = 10_000,
    seed: int = 0,
) -> ListScores:
    """Scores checked lists: queries of one kind, each once, no id twice in a list.

    Equal scores count as the official evaluator counts them: precision is taken at the end of each
    tie (see `average_precision`). Entries that are no positive of the query are wrong answers,
    whatever their id.

    Args:
        lists: the lists, in any order of scores.
        ground_truth: the labels.
        k: the cut, 1000 in the benchmark.
        num_resamples: bootstrap resamples of the intervals, at least 40.
        seed: of the bootstrap, in [0, 2**32).

    Raises:
        ValueError: k, num_resamples or seed is out of range.
    """
    check_arguments(k, num_resamples, seed)
    lists = _sorted(lists)
    labels = make_labels(lists.query_ids, ground_truth)
    values = _query_values(lists, labels, _found(lists, labels, ground_truth), k)
    statistics = _statistics(values, labels, num_resamples, seed)
    return ListScores(
        metrics=name_statistics(
            k, lists.query_ids, 100 * values.aps, values.num_positives > 0, labels, statistics
        ),
        official_oracle=100 * float(values.oracle.mean()),
        shortest=int(lists.lengths.min()),
        num_ambiguous=int(values.ambiguous.sum()),
    )


class _Found(NamedTuple):
    """The H entries that are positives of their query, by query and rank.

    Attributes:
        entry: [H] number of the entry.
        row: [H] number of the list.
        positive: [H] number of the positive.
    """

    entry: np.ndarray
    row: np.ndarray
    positive: np.ndarray


class _QueryValues(NamedTuple):
    """Fractions, float64; G groups, the first of them all positives.

    Attributes:
        aps: [G, Q].
        num_positives: [G, Q] int64; 0 where the query does not count for the group.
        recall: [Q] share of the query's positives among the first k.
        oracle: [Q] the official one.
        ambiguous: [Q] bool, see `ListScores`.
    """

    aps: np.ndarray
    num_positives: np.ndarray
    recall: np.ndarray
    oracle: np.ndarray
    ambiguous: np.ndarray


def _sorted(lists: SimilarityLists) -> SimilarityLists:
    """Puts each list into descending order of score; equal scores keep the order of the file."""
    rows = lists.rows
    rises = (lists.scores[1:] > lists.scores[:-1]) & (rows[1:] == rows[:-1])
    if not rises.any():
        return lists
    order = np.lexsort((-lists.scores, rows))
    return dataclasses.replace(lists, entries=lists.entries[order], scores=lists.scores[order])


def _found(lists: SimilarityLists, labels: Labels, ground_truth: GroundTruth) -> _Found:
    numbers = {name: number for number, name in enumerate(ground_truth.positive_ids)}
    known = map(numbers.get, lists.database_ids, itertools.repeat(-1))
    positive = np.fromiter(known, np.int64, len(lists.database_ids))
    owner = np.where(positive >= 0, labels.positive_object[positive], -1).astype(np.int32)
    rows = lists.rows
    entry = np.flatnonzero(owner[lists.entries] == labels.query_object[rows])
    return _Found(entry, rows[entry], positive[lists.entries[entry]])


def _query_values(lists: SimilarityLists, labels: Labels, found: _Found, k: int) -> _QueryValues:
    num_queries = len(lists.query_ids)
    start = lists.offsets[found.row]
    first, last = _tie_bounds(lists, found.entry)
    # Positions among the found entries: of the row's first, of the tie's first, behind its last.
    of_row, of_tie, behind_tie = (
        np.searchsorted(found.entry, place) for place in (start, first, last + 1)
    )
    member = labels.members[:, found.positive]
    removed = _counts_before(~member)
    rank = found.entry - start - (removed[:, :-1] - removed[:, of_row])
    tie_rank = first - start - (removed[:, of_tie] - removed[:, of_row])
    end_rank = last + 1 - start - (removed[:, behind_tie] - removed[:, of_row])
    hit = member & (rank < k)
    hits = _counts_before(hit)
    at_tie_end = hits[:, behind_tie] - hits[:, of_row]
    precision = np.where(hit, at_tie_end / np.clip(end_rank, 1, k), 0.0)
    total = np.stack([np.bincount(found.row, part, num_queries) for part in precision])
    num_positives = _num_positives(labels)
    num_hits = np.bincount(found.row, hit[0], num_queries)
    recall = num_hits / num_positives[0]
    kept = _counts_before(member)
    others = (end_rank - tie_rank) > (kept[:, behind_tie] - kept[:, of_tie])
    straddles = member & others & (tie_rank < k) & (k < end_rank)
    return _QueryValues(
        aps=total / np.clip(num_positives, 1, k),
        num_positives=num_positives,
        recall=recall,
        oracle=recall * k / np.clip(lists.lengths, 1, k),
        ambiguous=np.bincount(found.row, straddles.any(axis=0), num_queries) > 0,
    )


def _tie_bounds(lists: SimilarityLists, entry: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The first and the last entry of the run of equal scores around each given entry, [H] each."""
    begins = np.ones(len(lists.scores) + 1, bool)
    begins[1:-1] = lists.scores[1:] != lists.scores[:-1]
    begins[lists.offsets] = True
    starts = np.flatnonzero(begins)
    run = np.searchsorted(starts, entry, side="right")
    return starts[run - 1], starts[run] - 1


def _counts_before(marks: np.ndarray) -> np.ndarray:
    """[G, H + 1] int64: how many of marks [G, H] are true before each place."""
    return np.pad(np.cumsum(marks, axis=1), ((0, 0), (1, 0)))


def _num_positives(labels: Labels) -> np.ndarray:
    """[G, Q] int64: the positives of each query in each group."""
    num_objects = len(labels.categories)
    by_object = [
        np.bincount(labels.positive_object[member], minlength=num_objects + 1)
        for member in labels.members
    ]
    return np.stack(by_object)[:, labels.query_object]


def _statistics(
    values: _QueryValues, labels: Labels, num_resamples: int, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Values, weights and intervals of the statistics in `Labels.names`; percent."""
    counted = values.num_positives > 0
    per_query = np.concatenate([values.aps[:1], values.recall[None], values.aps[1:]])
    weights = np.concatenate([counted[:1], counted[:1], counted[1:]])
    num_objects = len(labels.categories)
    sums, queries = (
        np.stack([np.bincount(labels.query_object, row, num_objects) for row in rows], axis=1)
        for rows in (per_query, weights)
    )
    categories = labels.categories.astype(np.float64)
    object_map = sums[:, :1] / queries[:, :1]
    numerators = 100 * np.concatenate([sums, object_map * categories], axis=1)
    denominators = np.concatenate([queries, categories], axis=1)
    low, high = cluster_intervals(seed, numerators, denominators, num_resamples)
    total = denominators.sum(axis=0)
    return numerators.sum(axis=0) / np.where(total > 0, total, np.nan), total, low, high
