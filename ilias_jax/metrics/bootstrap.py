"""Confidence intervals from a cluster bootstrap: objects are drawn, their queries come along.

Queries of one object succeed and fail together, so drawing queries would give intervals that are
too narrow. Each statistic is a ratio of two sums over objects (sum of AP / number of queries), so a
resample needs only how often it drew each object, and all statistics of many resamples are one
matrix product: counts[resamples, objects] @ sums[objects, statistics]. Needs x64 enabled.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from ilias_jax.metrics.percentiles import percentiles

_ENTRIES_AT_ONCE = 2**19  # entries of counts at one time: bounds memory; a CPU keeps them in cache


def draw_objects(key: jax.Array, resample: jax.Array, num_objects: int) -> jax.Array:
    """Draws [num_objects] int32 objects with replacement for one resample, given its number.

    Every resample has its own key: what it draws does not depend on how many there are.
    """
    bits = jax.random.bits(jax.random.fold_in(key, resample), (num_objects,), jnp.uint32)
    # The high half of the product: uniform to 1 part in 2**32 / num_objects, and no slow modulo.
    return ((bits.astype(jnp.uint64) * num_objects) >> 32).astype(jnp.int32)


def cluster_intervals(
    key: jax.Array, numerators: jax.Array, denominators: jax.Array, num_resamples: int
) -> tuple[jax.Array, jax.Array]:
    """95 % percentile intervals of sum(numerators) / sum(denominators) over resampled objects.

    Resamples without a single object of a statistic (denominators all 0) do not count for it. With
    one object every resample is the same: the interval is the value itself, twice.

    Args:
        key: a typed random key.
        numerators: [O, S] float64, what object o adds to the numerator of statistic s.
        denominators: [O, S] float64, the same for the denominator.
        num_resamples: number of resamples.

    Returns:
        (low, high), both [S] float64; NaN for a statistic whose denominators are all 0.
    """
    sums = jnp.concatenate([numerators, denominators], axis=1)
    resample_sums = functools.partial(_resample_sums, key, sums)
    resampled = over_resamples(resample_sums, num_resamples, sums.shape[0])
    above, below = jnp.split(resampled, 2, axis=1)
    low, high = percentiles(above / below, below > 0, (2.5, 97.5))
    value = numerators.sum(axis=0) / denominators.sum(axis=0)
    single = (denominators > 0).sum(axis=0) == 1
    return jnp.where(single, value, low), jnp.where(single, value, high)


def over_resamples(
    function: Callable[[jax.Array], jax.Array], num_resamples: int, num_objects: int
) -> jax.Array:
    """[num_resamples, ...] `function` of each resample's number, in batches that bound the memory.

    Args:
        function: uint32 scalar -> array, through arrays of about `num_objects` entries.
        num_resamples: how many.
        num_objects: O.
    """
    num_batches = -(-num_resamples // max(1, _ENTRIES_AT_ONCE // num_objects))
    batch_size = -(-num_resamples // num_batches)
    # Batches of one size are compiled once; the last may have a few resamples too many.
    numbers = jnp.arange(num_batches * batch_size, dtype=jnp.uint32)
    batches = jax.lax.map(jax.vmap(function), numbers.reshape(num_batches, batch_size))
    return batches.reshape(-1, *batches.shape[2:])[:num_resamples]


def _resample_sums(key: jax.Array, sums: jax.Array, resample: jax.Array) -> jax.Array:
    """[2 S] sums over the objects of one resample."""
    num_objects = sums.shape[0]
    drawn = draw_objects(key, resample, num_objects)
    counts = jnp.zeros(num_objects, jnp.int32).at[drawn].add(1, mode="promise_in_bounds")
    return counts.astype(sums.dtype) @ sums
