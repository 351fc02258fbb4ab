"""mAP@k of ranked lists with its groups and intervals, as the official evaluator computes it.

The official evaluator takes scikit-learn's `average_precision_score` of the list cut at k and
multiplies it by found / min(k, P). Precision there is taken once for each distinct score, so that
all entries of a tie count as seen when the first of them is. For P positives this equals

    AP = 1 / min(k, P) * sum over found positives of
         (positives found up to the end of its tie) / (rank of the end of its tie).

So the list itself is not needed: the ranks of a query's own positives and of their ties are enough.
They are found on the host; AP by query and group, means and intervals are one program on the
device. For a group, the query's other positives are removed from its list before the cut, each
shortens the ranks behind it by one, and the list is not filled up again.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ilias_jax.dataset.ground_truth import GroundTruth
from ilias_jax.metrics.groups import Labels, make_labels
from ilias_jax.metrics.intervals import cluster_intervals, object_sums
from ilias_jax.metrics.lists import SimilarityLists
from ilias_jax.search.ranking import Ranking

NOT_FOUND = np.int32(np.iinfo(np.int32).max)  # beyond every rank
# Rows are filled up to a multiple, so that image and text queries share a compiled program.
_ROWS = 2048
_Array = np.ndarray | jax.Array
GROUPINGS = ("scale", "clutter", "categories", "subcategories")


@dataclasses.dataclass(frozen=True, eq=False)
class Metrics:
    """The protocol's numbers, all of them percentages.

    Attributes:
        k: the cut of the lists.
        query_ids: Q ids, in the order of the ranking.
        aps: [Q] float64 AP@k of each query.
        group_aps: section (scale, clutter) -> key -> [Q] float64 AP@k of each query within the
            group, NaN where the query has no positive in it.
        map: mean AP@k over queries.
        ci95: 95 % interval of `map`, objects resampled.
        oracle: mean over queries of the share of a query's positives among the first k. It is
            the mAP@k of a perfect re-ranking of the list where no query has more than k positives.
        scale: "low-high" -> mean AP@k over the queries with a positive of that object area ratio,
            the other positives being taken out of ranking and ground truth.
        clutter: the same for the clutter of the positives.
        categories: coarse category -> mean over objects of the mean over the object's queries.
        subcategories: the same for "coarse-mid".
        intervals: section (oracle, scale, clutter, categories, subcategories) -> key -> 95 %
            interval. Groups of few objects give intervals that are too narrow.
        counts: section (scale, clutter: queries; categories, subcategories: objects) -> key ->
            how many the number is the mean of. Groups without any are left out everywhere.
    """

    k: int
    query_ids: tuple[str, ...]
    aps: np.ndarray
    group_aps: dict[str, dict[str, np.ndarray]]
    map: float
    ci95: tuple[float, float]
    oracle: float
    scale: dict[str, float]
    clutter: dict[str, float]
    categories: dict[str, float]
    subcategories: dict[str, float]
    intervals: dict[str, dict[str, tuple[float, float]]]
    counts: dict[str, dict[str, int]]

    @property
    def num_queries(self) -> int:
        """The number of queries, Q."""
        return len(self.query_ids)

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values for JSON.

        The mean is under "map@<k>", `aps` are by query id; those of `group_aps` are lists in the
        same order, with None where the query has no positive in the group.
        """
        return {
            f"map@{self.k}": self.map,
            "ci95": list(self.ci95),
            "oracle": self.oracle,
            **{section: dict(getattr(self, section)) for section in GROUPINGS},
            "num_queries": self.num_queries,
            "intervals": {
                section: {key: list(interval) for key, interval in intervals.items()}
                for section, intervals in self.intervals.items()
            },
            "counts": {section: dict(counts) for section, counts in self.counts.items()},
            "aps": dict(zip(self.query_ids, self.aps.tolist(), strict=True)),
            "group_aps": {
                section: {
                    key: [None if np.isnan(ap) else ap for ap in aps.tolist()]
                    for key, aps in groups.items()
                }
                for section, groups in self.group_aps.items()
            },
        }


@dataclasses.dataclass(frozen=True, eq=False)
class ListScores:
    """The numbers of the lists of a similarity file.

    The official evaluator's oracle is mean(found among the first k entries) * k / P; for lists
    shorter than k it is too high by k / length. A query is ambiguous where equal scores on both
    sides of rank k, a positive among them, leave open what is cut off, in the whole list or in a
    group: the order of the file decides here, the official evaluator's sort is unstable.
    """

    metrics: Metrics  # its `oracle` is the retrieval recall@k
    official_oracle: float  # percent
    shortest: int  # entries of the shortest list
    num_ambiguous: int  # queries


def evaluate(
    ranking: Ranking,
    ground_truth: GroundTruth,
    k: int,
    num_database: int,
    num_resamples: int = 10_000,
    seed: int = 0,
) -> Metrics:
    """Scores a ranking of all image queries, or of all text queries, as ILIAS does.

    Fractions are float64 whatever the global configuration of JAX is. Where a tie straddles rank k
    the order of the ranking decides.

    Args:
        ranking: the search result, at least min(k, num_database) entries a query.
        ground_truth: the labels; its positives are the database indices 0..P-1.
        k: the cut, 1000 in the benchmark.
        num_database: number of database images that were searched.
        num_resamples: bootstrap resamples of the intervals, at least 40.
        seed: of the bootstrap, in [0, 2**32).

    Returns:
        The metrics in percent, see `Metrics`.

    Raises:
        ValueError: the queries are not exactly those of one kind, or the lists are too short, or
            belong to another database.
    """
    _check(ranking, ground_truth, k, num_database)
    labels = make_labels(ranking.query_ids, ground_truth)
    num_queries, length = ranking.indices.shape
    offsets = length * np.arange(num_queries + 1)
    found = find_positives(ranking.indices.ravel(), ranking.scores.ravel(), offsets, labels)
    cut = min(k, num_database)
    return _name(k, ranking.query_ids, labels, _score(found, labels, cut, num_resamples, seed))


def score_lists(
    lists: SimilarityLists,
    ground_truth: GroundTruth,
    k: int,
    num_resamples: int = 10_000,
    seed: int = 0,
) -> ListScores:
    """Scores lists of one kind of query, each query once, no id twice in a list, scores finite.

    Entries that are no positive of the query are wrong answers, whatever their id. The lists may be
    in any order of scores; the other arguments are those of `evaluate`.
    """
    lists = lists.descending()
    labels = make_labels(lists.query_ids, ground_truth)
    numbers = {name: number for number, name in enumerate(ground_truth.positive_ids)}
    positives = [numbers.get(name, len(numbers)) for name in lists.database_ids]
    entries = np.array(positives, np.int32)[lists.entries]
    found = find_positives(entries, lists.scores, lists.offsets, labels)
    cut = min(k, max(int(lists.lengths.max()), len(numbers)))  # fits int32, changes no number
    scores = _score(found, labels, cut, num_resamples, seed)
    return ListScores(
        metrics=_name(k, lists.query_ids, labels, scores),
        official_oracle=100 * float((scores.recall * k / np.clip(lists.lengths, 1, k)).mean()),
        shortest=int(lists.lengths.min()),
        num_ambiguous=int(scores.ambiguous.sum()),
    )


def _check(ranking: Ranking, ground_truth: GroundTruth, k: int, num_database: int) -> None:
    ids = sorted(ranking.query_ids)
    kinds = ground_truth.image_query_ids, ground_truth.text_query_ids
    if not ids or ids not in map(sorted, kinds):
        raise ValueError(
            f"ranking of {len(ids)} queries; expected all {len(kinds[0])} image queries or all "
            f"{len(kinds[1])} text queries, each once"
        )
    length, largest = ranking.indices.shape[1], int(ranking.indices.max(initial=0))
    if not max(largest + 1, len(ground_truth.positive_ids)) <= num_database:
        raise ValueError(
            f"{num_database} database images, fewer than the {len(ground_truth.positive_ids)} "
            f"positives or the largest index {largest} need"
        )
    if not 1 <= min(k, num_database) <= length:
        raise ValueError(f"lists of {length} entries of {num_database} cannot be cut at k = {k}")


class FoundPositives(NamedTuple):
    """The own positives in each query's list, by rank; filled up to M and to R >= Q rows.

    M is what a row can hold, not what the longest does: a result must not change the program. All
    fields are [R, M] int32; without a remark they hold `NOT_FOUND` where filled up.
    """

    positive: _Array  # numbers of positives; filled up with 0
    rank: _Array  # at least 1, rising
    tie_start: _Array  # rank of the first entry of the list with the same score
    tie_end: _Array  # of the last one
    first_of_tie: _Array  # column of the tie's first positive; filled up with 0
    last_of_tie: _Array  # of the last one; filled up with 0


def find_positives(
    entries: np.ndarray, scores: np.ndarray, offsets: np.ndarray, labels: Labels
) -> FoundPositives:
    """Finds the Q queries' own positives in lists.

    Args:
        entries: [E] int32 numbers of positives; other images have numbers from P on.
        scores: [E] float32 or float64, not rising within a list.
        offsets: [Q + 1] where each list begins, and the end of the last one.
        labels: of the queries.
    """
    position = np.flatnonzero(entries < len(labels.positive_object))
    row = np.searchsorted(offsets, position, side="right") - 1
    own = labels.positive_object[entries[position]] == labels.query_object[row]
    position, row = position[own], row[own]
    ties = _tie_starts(scores, offsets)
    tie = np.searchsorted(ties, position, side="right")
    start, behind = ties[tie - 1], ties[tie]
    first = np.searchsorted(row, row)  # the first found positive of the same list
    num_queries = len(labels.query_object)
    longest = np.bincount(labels.positive_object)[labels.query_object].max()
    shape = (-(-num_queries // _ROWS) * _ROWS, int(longest))

    def rows(values: np.ndarray, filling: int | np.int32) -> np.ndarray:
        array = np.full(shape, filling, np.int32)
        array[row, np.arange(len(row)) - first] = values
        return array

    return FoundPositives(
        positive=rows(entries[position], 0),
        rank=rows(position - offsets[row] + 1, NOT_FOUND),
        tie_start=rows(start - offsets[row] + 1, NOT_FOUND),
        tie_end=rows(behind - offsets[row], NOT_FOUND),
        first_of_tie=rows(np.searchsorted(position, start) - first, 0),
        last_of_tie=rows(np.searchsorted(position, behind) - 1 - first, 0),
    )


def _tie_starts(scores: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Where runs of equal scores within a list begin, and E at the end."""
    # Bits, as a library may have told the processor to take subnormal numbers for zero.
    bits = scores.view(f"i{scores.itemsize}")
    bits = np.where(bits == np.iinfo(bits.dtype).min, 0, bits)  # -0.0 equals 0.0
    starts = np.ones(len(scores) + 1, bool)
    starts[1:-1] = bits[1:] != bits[:-1]
    starts[offsets] = True
    return np.flatnonzero(starts)


class _Scores(NamedTuple):
    """Scores of Q queries and the S statistics of `Labels.names`; G groups, first all positives."""

    aps: np.ndarray  # [G, Q] float64 percentages
    counted: np.ndarray  # [G, Q] bool, the query has a positive of the group
    recall: np.ndarray  # [Q] float64 share of the query's positives among the first k
    ambiguous: np.ndarray  # [Q] bool, see `ListScores`
    values: np.ndarray  # [S] float64 percentages
    weights: np.ndarray  # [S] float64, the number of queries or objects behind each value
    low: np.ndarray  # [S] float64 percentages
    high: np.ndarray


def _score(found: FoundPositives, labels: Labels, k: int, num_resamples: int, seed: int) -> _Scores:
    """All numbers of the positives that were found: to the device, one program, and back."""
    num_queries, num_objects = len(labels.query_object), len(labels.categories)
    filling = (0, len(found.rank) - num_queries)
    arrays = (
        found,
        np.pad(labels.query_object, filling, constant_values=num_objects),
        labels.positive_object,
        labels.members,
        labels.categories,
        np.int32(k),
        np.uint32(seed),
    )
    with jax.enable_x64(True), jax.debug_nans(False):  # NaN is the score of an empty group
        outputs = _all_numbers(*jax.device_put(arrays), num_resamples)
        by_query, statistics = jax.device_get(outputs)
    return _Scores(*(array[..., :num_queries] for array in by_query), *statistics)


@functools.partial(jax.jit, static_argnames="num_resamples")
def _all_numbers(
    found: FoundPositives,
    query_object: jax.Array,
    positive_object: jax.Array,
    members: jax.Array,
    categories: jax.Array,
    k: jax.Array,
    seed: jax.Array,
    num_resamples: int,
) -> tuple[tuple[jax.Array, ...], tuple[jax.Array, ...]]:
    """The fields of `_Scores`, by query and of statistics; `query_object` is O in added rows."""
    num_objects = len(categories)

    def of_group(member: jax.Array) -> tuple[jax.Array, ...]:
        ones = member.astype(jnp.int32)
        by_object = jax.ops.segment_sum(ones, positive_object, num_objects + 1)
        positives = by_object[query_object]
        return *average_precision(found, member[found.positive], positives, k), positives > 0

    aps, recall, ambiguous, counted = jax.lax.map(of_group, members)
    values = jnp.concatenate([aps[:1], recall[:1], aps[1:]])
    in_means = jnp.concatenate([counted[:1], counted])
    sums, denominators = object_sums(values, in_means, query_object, categories)
    numerators = 100.0 * sums
    key = jax.random.key(seed, impl="threefry2x32")
    low, high = cluster_intervals(key, numerators, denominators, num_resamples)
    total = denominators.sum(axis=0)
    by_query = 100.0 * aps, counted, recall[0], ambiguous.any(axis=0)
    return by_query, (numerators.sum(axis=0) / total, total, low, high)


def average_precision(
    found: FoundPositives, kept: jax.Array, num_positives: jax.Array, k: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """AP@k and retrieval recall@k of each list after positives were removed from it.

    Args:
        found: the positives in the whole list.
        kept: [R, M] bool, false for positives that are removed before the cut.
        num_positives: [R] int32, positives of the query in the database (without removed ones).
        k: int32 scalar >= 1, the cut.

    Returns:
        ap, recall: [R] float64 fractions in [0, 1]; 0 where nothing is found, so also where a query
            has no positive left. Recall@k is found / P.
        ambiguous: [R] bool, a kept positive and something else tie on both sides of rank k.
    """
    removed = jnp.cumsum(~kept, axis=1, dtype=jnp.int32)
    hit = kept & (found.rank - removed <= k)
    hits = jnp.cumsum(hit, axis=1, dtype=jnp.int32)
    take = functools.partial(jnp.take_along_axis, axis=1)
    hits_at_end, removed_at_end = (take(counts, found.last_of_tie) for counts in (hits, removed))
    end = found.tie_end - removed_at_end
    # A removed positive may end at rank 0; it adds nothing, but must not divide by it.
    precision = hits_at_end / jnp.clip(end, 1, k).astype(jnp.float64)
    total = jnp.sum(jnp.where(hit, precision, 0.0), axis=1, dtype=jnp.float64)
    ap = total / jnp.maximum(jnp.minimum(num_positives, k), 1)
    recall = hits[:, -1] / jnp.maximum(num_positives, 1).astype(jnp.float64)
    removed_before = take(removed - ~kept, found.first_of_tie)
    start = found.tie_start - removed_before
    own = found.last_of_tie - found.first_of_tie + 1 - (removed_at_end - removed_before)
    ambiguous = kept & (end - start + 1 > own) & (start <= k) & (k < end)
    return ap, recall, ambiguous.any(axis=1)


def _name(k: int, query_ids: tuple[str, ...], labels: Labels, scores: _Scores) -> Metrics:
    """Sorts the statistics into the sections of `Metrics`; a group of nothing is left out."""
    values: dict[str, dict[str, float]] = {section: {} for section, _ in labels.names}
    intervals: dict[str, dict[str, tuple[float, float]]] = {section: {} for section in values}
    counts: dict[str, dict[str, int]] = {section: {} for section in values}
    statistics = scores.values, scores.weights, scores.low, scores.high
    for (section, key), value, weight, low, high in zip(labels.names, *statistics, strict=True):
        if weight > 0:
            values[section][key] = float(value)
            intervals[section][key] = (float(low), float(high))
            counts[section][key] = int(weight)
    group_aps: dict[str, dict[str, np.ndarray]] = {"scale": {}, "clutter": {}}
    groups = [name for name in labels.names if name[0] in group_aps]
    rows = zip(groups, scores.aps[1:], scores.counted[1:], strict=True)
    for (section, key), aps, counted in rows:
        if counted.any():
            group_aps[section][key] = np.where(counted, aps, np.nan)
    return Metrics(
        k=k,
        query_ids=query_ids,
        aps=scores.aps[0],
        group_aps=group_aps,
        map=values["map"]["map"],
        ci95=intervals["map"]["map"],
        oracle=values["oracle"]["oracle"],
        **{section: values[section] for section in GROUPINGS},
        intervals={section: intervals[section] for section in ("oracle", *GROUPINGS)},
        counts={section: counts[section] for section in GROUPINGS},
    )
