"""Scores one ranking on the device: a transfer there, one program, a transfer back."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ilias_jax.ground_truth import GroundTruth
from ilias_jax.metrics.average_precision import average_precision, tie_ends
from ilias_jax.metrics.bootstrap import cluster_intervals
from ilias_jax.metrics.checks import check_arguments, check_database, check_queries
from ilias_jax.metrics.groups import make_labels
from ilias_jax.metrics.naming import name_statistics
from ilias_jax.metrics.result import Metrics
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
    arrays = (
        ranking.indices,
        ranking.scores,
        labels.query_object,
        labels.positive_object,
        labels.members,
        labels.categories,
        np.int32(min(k, num_database)),
        np.uint32(seed),
    )
    with jax.enable_x64(True):
        outputs = _program(_Inputs(*jax.device_put(arrays)), num_resamples)
        aps, counted, *statistics = map(np.asarray, jax.device_get(tuple(outputs)))
    return name_statistics(k, ranking.query_ids, aps, counted, labels, statistics)


class _Inputs(NamedTuple):
    """`Ranking` and `Labels` on the device, and k (int32) and the seed (uint32)."""

    indices: jax.Array
    scores: jax.Array
    query_object: jax.Array
    positive_object: jax.Array
    members: jax.Array
    categories: jax.Array
    k: jax.Array
    seed: jax.Array


class _Outputs(NamedTuple):
    """APs by group [G, Q] and the S statistics of `Labels.names`, float64 percentages."""

    aps: jax.Array  # the first group is all positives
    counted: jax.Array  # [G, Q] bool, the query has a positive of the group
    values: jax.Array
    weights: jax.Array  # the number of queries or objects behind each value
    low: jax.Array
    high: jax.Array


@functools.partial(jax.jit, static_argnames="num_resamples")
def _program(inputs: _Inputs, num_resamples: int) -> _Outputs:
    """All numbers of one ranking. Runs and is traced with x64 enabled."""
    aps, recall, num_positives = _query_values(inputs)
    has_positive = (num_positives > 0).astype(jnp.float64)
    values = jnp.concatenate([aps[:1], recall[:1], aps[1:]])
    weights = jnp.concatenate([has_positive[:1], has_positive[:1], has_positive[1:]])
    num_objects = inputs.categories.shape[0]
    sums, queries = (
        jax.ops.segment_sum(array.T, inputs.query_object, num_objects)
        for array in (values, weights)
    )
    object_map = sums[:, :1] / queries[:, :1]
    categories = inputs.categories.astype(jnp.float64)
    numerators = 100.0 * jnp.concatenate([sums, object_map * categories], axis=1)
    denominators = jnp.concatenate([queries, categories], axis=1)
    key = jax.random.key(inputs.seed, impl="threefry2x32")
    low, high = cluster_intervals(key, numerators, denominators, num_resamples)
    total = denominators.sum(axis=0)
    return _Outputs(
        100.0 * aps, num_positives > 0, numerators.sum(axis=0) / total, total, low, high
    )


def _query_values(inputs: _Inputs) -> tuple[jax.Array, jax.Array, jax.Array]:
    """AP, recall (float64 fractions) and number of positives (int32), each [G, Q]."""
    num_positives = inputs.positive_object.shape[0]
    num_objects = inputs.categories.shape[0]
    ends = tie_ends(inputs.scores)
    positive = jnp.minimum(inputs.indices, num_positives - 1)
    own = inputs.positive_object[positive] == inputs.query_object[:, None]
    own &= inputs.indices < num_positives

    def of_group(members: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        by_object = jax.ops.segment_sum(
            members.astype(jnp.int32), inputs.positive_object, num_objects + 1
        )
        group_positives = by_object[inputs.query_object]
        found = own & members[positive]
        kept = found | ~own
        ap, recall = average_precision(ends, found, kept, group_positives, inputs.k)
        return ap, recall, group_positives

    aps, recall, positives = jax.lax.map(of_group, inputs.members)
    return aps, recall, positives
