"""Percentiles of the columns of an array, some entries left out. Needs x64 enabled."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np


def percentiles(values: jax.Array, counted: jax.Array, percents: Sequence[float]) -> jax.Array:
    """What `numpy.percentile` gives for the counted values of each column.

    Args:
        values: [R, S] float64; what is not counted may be anything, the rest is no NaN.
        counted: [R, S] bool.
        percents: p numbers in [0, 100].

    Returns:
        [p, S] float64, linear between neighbours; NaN for a column of which nothing is counted.
    """
    ordered = _sorted_columns(jnp.where(counted, values, jnp.inf))
    count = counted.sum(axis=0)
    place = jnp.array(percents, jnp.float64)[:, None] / 100.0 * (count - 1)
    below = jnp.maximum(jnp.floor(place), 0.0)
    share = place - below
    low, high = (
        jnp.take_along_axis(ordered, rank.astype(jnp.int32), axis=0)
        for rank in (below, jnp.ceil(jnp.maximum(place, 0.0)))
    )
    return jnp.where(count > 0, low * (1.0 - share) + high * share, jnp.nan)


def _sorted_columns(values: jax.Array) -> jax.Array:
    """Sorts each column of values [R, S] float64 that hold no NaN."""
    return jax.lax.platform_dependent(
        values, cpu=_sorted_as_integers, default=lambda values: jnp.sort(values, axis=0)
    )


def _sorted_as_integers(values: jax.Array) -> jax.Array:
    """The same through integers in the order of the floats, which XLA sorts faster on a CPU.

    A TPU emulates float64, so that there are no bits to reinterpret.
    """
    bits = jax.lax.bitcast_convert_type(values, jnp.int64)
    # The bits of a negative float grow as it falls; turned over, all but its sign, they rise.
    ordered = jnp.sort(_turn_negative(bits), axis=0)
    return jax.lax.bitcast_convert_type(_turn_negative(ordered), jnp.float64)


def _turn_negative(bits: jax.Array) -> jax.Array:
    """Turns all bits but the sign of negative numbers over; its own inverse."""
    return bits ^ ((bits >> 63) & np.int64(np.iinfo(np.int64).max))
