"""Scores what a search returned: a transfer to the device, one program, a transfer back."""

import jax
import numpy as np

from ilias_jax.ground_truth import GroundTruth
from ilias_jax.metrics.checks import (
    check_arguments,
    check_counts,
    check_database,
    check_queries,
)
from ilias_jax.metrics.found import Found, found_in_counts, found_in_ranking
from ilias_jax.metrics.groups import Labels, make_labels
from ilias_jax.metrics.naming import name_statistics
from ilias_jax.metrics.program import Inputs, all_numbers
from ilias_jax.metrics.result import Metrics
from ilias_jax.positive_counts import PositiveCounts
from ilias_jax.ranking import Ranking


def evaluate(
    ranking: Ranking,
    ground_truth: GroundTruth,
    k: int,
    num_database: int,
    num_resamples: int = 10_000,
    seed: int = 0,
) -> Metrics:
    """Scores a ranking of all image queries, or of all text queries, as ILIAS does.

    Equal scores are those of the float32 scores; fractions are float64 whatever the global
    configuration of JAX is. Where a tie straddles rank k the order of the ranking decides.

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
        ValueError: k, num_resamples or seed is out of range.
        UserError: the queries are not exactly those of one kind, or the lists are too short, or
            belong to another database.
    """
    check_arguments(k, num_resamples, seed)
    check_queries(ranking.query_ids, ground_truth)
    check_database(ranking, ground_truth, k, num_database)
    labels = make_labels(ranking.query_ids, ground_truth)
    found = found_in_ranking(ranking, labels)
    return _score(ranking.query_ids, found, labels, k, num_database, num_resamples, seed)


def evaluate_counts(
    counts: PositiveCounts,
    ground_truth: GroundTruth,
    k: int,
    num_resamples: int = 10_000,
    seed: int = 0,
) -> Metrics:
    """Scores the counts of a search without lists: no bit differs from `evaluate`.

    The ranking meant has the first `counts.k` database rows of each query, all of them where the
    database is smaller.

    Args:
        counts: of all own positives of all image queries, or of all text queries, in the order of
            `own_positives`; exact up to min(k, counts.num_database) at least.
        ground_truth: see `evaluate`, as for the other arguments.
        k: the cut.
        num_resamples: bootstrap resamples.
        seed: of the bootstrap.

    Returns:
        The metrics in percent, see `Metrics`.

    Raises:
        ValueError: k, num_resamples or seed is out of range.
        UserError: the queries are not exactly those of one kind, or the counts do not reach k, or
            are those of other positives.
    """
    check_arguments(k, num_resamples, seed)
    check_queries(counts.query_ids, ground_truth, "counts")
    check_counts(counts, ground_truth, k)
    labels = make_labels(counts.query_ids, ground_truth)
    found = found_in_counts(counts, labels)
    return _score(counts.query_ids, found, labels, k, counts.num_database, num_resamples, seed)


def _score(
    query_ids: tuple[str, ...],
    found: Found,
    labels: Labels,
    k: int,
    num_database: int,
    num_resamples: int,
    seed: int,
) -> Metrics:
    """All numbers of the positives that were found."""
    num_queries, num_objects = len(query_ids), len(labels.categories)
    filling = (0, len(found.rank) - num_queries)
    arrays = (
        found,
        np.pad(labels.query_object, filling, constant_values=num_objects),
        labels.positive_object,
        labels.members,
        labels.categories,
        np.int32(min(k, num_database)),
        np.uint32(seed),
    )
    with jax.enable_x64(True):
        outputs = all_numbers(Inputs(*jax.device_put(arrays)), num_resamples)
        aps, counted, *statistics = map(np.asarray, jax.device_get(tuple(outputs)))
    aps, counted = aps[:, :num_queries], counted[:, :num_queries]
    return name_statistics(k, query_ids, aps, counted, labels, statistics)
