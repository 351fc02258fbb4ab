"""The paired difference of two runs over the same queries: its interval and its p-value.

Objects, not queries, are the independent units: the queries of one object succeed and fail
together. So the bootstrap draws objects, the same ones for both runs, and the randomisation test
exchanges the two runs' scores for all queries of an object at once.

The test is Fisher's randomisation test as Smucker, Allan and Carterette (CIKM 2007) apply it to
retrieval: if the runs do not differ, then swapping their names on an object changes nothing, so
each of the 2^O patterns of swaps was as likely as the one that was seen. With

    T = |sum over objects of s_o * d_o|,  d_o what object o adds to the difference B - A,

the p-value is the share of random sign patterns s whose T is at least that of s = (+1, ..., +1),
the pattern that was seen counted once more: p = (1 + count) / (1 + permutations), which is valid
for any number of permutations and never 0 (Phipson and Smyth, 2010). It is two-sided.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ilias_jax.metrics.bootstrap import cluster_intervals, over_resamples

# Sums of the same numbers in another order differ by less than this share of their magnitudes.
_ROUNDING = 1e-12


class PairedInputs(NamedTuple):
    """Two runs' scores of the same Q queries.

    Attributes:
        a: [G, Q] float64, the first run's APs; the first row is all queries, further rows are
            groups, NaN where a query does not count.
        b: [G, Q] float64, the second run's, NaN in the same places.
        query_object: [Q] int32 numbers 0..O-1 of the queries' objects, each used.
        categories: [O, C] bool, the object is in the category.
    """

    a: np.ndarray
    b: np.ndarray
    query_object: np.ndarray
    categories: np.ndarray


class PairedDifferences(NamedTuple):
    """G + C statistics, rows of `a` then categories, each [G + C] float64.

    Attributes:
        a: the first run's mean: over queries for rows, over objects' means for categories.
        b: the second run's.
        difference: b - a.
        low: lower end of the 95 % interval of the difference.
        high: its upper end.
        p_value: in (0, 1], see the module.
        weight: number of queries, or objects, behind the means.
    """

    a: np.ndarray
    b: np.ndarray
    difference: np.ndarray
    low: np.ndarray
    high: np.ndarray
    p_value: np.ndarray
    weight: np.ndarray


def paired_differences(
    inputs: PairedInputs, num_resamples: int, num_permutations: int, seed: int
) -> PairedDifferences:
    """Compares two runs on the device; see the module for what the numbers mean.

    Args:
        inputs: the scores.
        num_resamples: of the bootstrap, at least 40.
        num_permutations: random sign patterns, at least 1.
        seed: of both, in [0, 2**32).

    Raises:
        ValueError: NaN in other places of `a` than of `b`.
    """
    if not np.array_equal(np.isnan(inputs.a), np.isnan(inputs.b)):
        raise ValueError("the two runs count other queries in a group")
    with jax.enable_x64(True):
        arrays = jax.device_put((*inputs, np.uint32(seed)))
        return PairedDifferences(
            *jax.device_get(_program(*arrays, num_resamples, num_permutations))
        )


@functools.partial(jax.jit, static_argnames=("num_resamples", "num_permutations"))
def _program(
    a: jax.Array,
    b: jax.Array,
    query_object: jax.Array,
    categories: jax.Array,
    seed: jax.Array,
    num_resamples: int,
    num_permutations: int,
) -> tuple[jax.Array, ...]:
    """The fields of `PairedDifferences`. Runs and is traced with x64 enabled."""
    num_objects = categories.shape[0]
    counted = ~jnp.isnan(a)
    members = categories.astype(jnp.float64)
    queries = jax.ops.segment_sum(counted.astype(jnp.float64).T, query_object, num_objects)

    def by_object(values: jax.Array) -> jax.Array:
        sums = jax.ops.segment_sum(jnp.where(counted, values, 0.0).T, query_object, num_objects)
        return jnp.concatenate([sums, sums[:, :1] / queries[:, :1] * members], axis=1)

    denominators = jnp.concatenate([queries, members], axis=1)
    differences = by_object(b - a)
    draws, flips = jax.random.split(jax.random.key(seed, impl="threefry2x32"))
    low, high = cluster_intervals(draws, differences, denominators, num_resamples)
    total = denominators.sum(axis=0)
    return (
        by_object(a).sum(axis=0) / total,
        by_object(b).sum(axis=0) / total,
        differences.sum(axis=0) / total,
        low,
        high,
        _p_values(flips, differences, num_permutations),
        total,
    )


def _p_values(key: jax.Array, differences: jax.Array, num_permutations: int) -> jax.Array:
    """[S] p-values of the differences [O, S] that objects add to each statistic."""
    # A pattern that gives the same sum must count, in whatever order it was added up.
    seen = jnp.abs(differences.sum(axis=0)) - _ROUNDING * jnp.abs(differences).sum(axis=0)

    def reaches(permutation: jax.Array) -> jax.Array:
        signs = _signs(key, permutation, differences.shape[0])
        return jnp.abs(signs.astype(jnp.float64) @ differences) >= seen

    reached = over_resamples(reaches, num_permutations, differences.shape[0])
    return (1.0 + reached.sum(axis=0)) / (1.0 + num_permutations)


def _signs(key: jax.Array, permutation: jax.Array, num_objects: int) -> jax.Array:
    """[O] int32 of -1 and +1 for one permutation, given its number."""
    bits = jax.random.bits(jax.random.fold_in(key, permutation), (num_objects,), jnp.uint32)
    return (bits >> 31).astype(jnp.int32) * 2 - 1
