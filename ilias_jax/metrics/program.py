"""The program that computes all numbers of one kind of query on the device."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ilias_jax.metrics.average_precision import average_precision
from ilias_jax.metrics.bootstrap import cluster_intervals
from ilias_jax.metrics.found import Found


class Inputs(NamedTuple):
    """`Found` and `Labels` on the device, and k (int32) and the seed (uint32).

    `query_object` [R] is O in the rows that are filled up: these count for nothing.
    """

    found: Found
    query_object: jax.Array
    positive_object: jax.Array
    members: jax.Array
    categories: jax.Array
    k: jax.Array
    seed: jax.Array


class Outputs(NamedTuple):
    """APs by group [G, R] and the S statistics of `Labels.names`, float64 percentages."""

    aps: jax.Array  # the first group is all positives
    counted: jax.Array  # [G, R] bool, the query has a positive of the group
    values: jax.Array
    weights: jax.Array  # the number of queries or objects behind each value
    low: jax.Array
    high: jax.Array


@functools.partial(jax.jit, static_argnames="num_resamples")
def all_numbers(inputs: Inputs, num_resamples: int) -> Outputs:
    """All numbers of one kind of query. Runs and is traced with x64 enabled."""
    aps, recall, num_positives = _query_values(inputs)
    has_positive = (num_positives > 0).astype(jnp.float64)
    values = jnp.concatenate([aps[:1], recall[:1], aps[1:]])
    weights = jnp.concatenate([has_positive[:1], has_positive[:1], has_positive[1:]])
    num_objects = inputs.categories.shape[0]
    sums, queries = (  # a segment number that is out of range, O, is left out
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
    return Outputs(100.0 * aps, num_positives > 0, numerators.sum(axis=0) / total, total, low, high)


def _query_values(inputs: Inputs) -> tuple[jax.Array, jax.Array, jax.Array]:
    """AP, recall (float64 fractions) and number of positives (int32), each [G, R]."""
    num_objects = inputs.categories.shape[0]

    def of_group(members: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        by_object = jax.ops.segment_sum(
            members.astype(jnp.int32), inputs.positive_object, num_objects + 1
        )
        group_positives = by_object[inputs.query_object]
        kept = members[inputs.found.positive]
        ap, recall = average_precision(inputs.found, kept, group_positives, inputs.k)
        return ap, recall, group_positives

    aps, recall, positives = jax.lax.map(of_group, inputs.members)
    return aps, recall, positives
