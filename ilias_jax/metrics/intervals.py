"""Confidence intervals by a cluster bootstrap, and the paired difference of two runs.

Objects, not queries, are the independent units: queries of one object succeed and fail together,
and drawing queries would give intervals that are too narrow. Each statistic is a ratio of two sums
over objects, so a resample needs only how often it drew each object: all statistics are one matrix
product, counts[resamples, objects] @ sums[objects, S].

Two runs are compared on the same resamples. The p-value is that of Fisher's randomisation test as
Smucker, Allan and Carterette (CIKM 2007) apply it to retrieval: if the runs do not differ,
exchanging their scores for all queries of an object changes nothing, so each of the 2^O patterns of
exchanges was as likely as the one that was seen. With

    T = |sum over objects of s_o * d_o|,  d_o what object o adds to the difference B - A,

the two-sided p-value is the share of random sign patterns s whose T is at least the seen one's,
that of s = (+1, ..., +1), which is counted once more: p = (1 + count) / (1 + permutations) is valid
for any number of permutations and never 0 (Phipson and Smyth, 2010).

All functions run and are traced with x64 enabled.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

_BATCH = 500  # resamples at one time: bounds the memory; 10,000 are batches of one size
# Sums of the same numbers in another order differ by less than this share of their magnitudes.
_ROUNDING = 1e-12


def draw_objects(key: jax.Array, resample: jax.Array, num_objects: int) -> jax.Array:
    """Draws [num_objects] int32 objects with replacement for one resample, given its number.

    Every resample has its own key: what it draws does not depend on how many there are.
    """
    bits = _bits(key, resample, num_objects)
    # The high half of the product: uniform to 1 part in 2**32 / num_objects, and no slow modulo.
    return ((bits.astype(jnp.uint64) * num_objects) >> 32).astype(jnp.int32)


def object_sums(
    values: jax.Array, counted: jax.Array, query_object: jax.Array, categories: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Numerators and denominators by object of means over queries and of means over objects.

    Args:
        values: [G, Q] float64, a statistic a row; the first is that of the categories too.
        counted: [G, Q] bool, the query counts for the statistic.
        query_object: [Q] int32 numbers 0..O-1 of the queries' objects; others are left out.
        categories: [O, C] bool, the object is in the category.

    Returns:
        Two [O, G + C] float64: sums of values and numbers of queries, and for categories the mean
        over the object's queries and 1.
    """
    rows = jnp.where(counted, values, 0.0), counted.astype(jnp.float64)
    sums, queries = (jax.ops.segment_sum(row.T, query_object, len(categories)) for row in rows)
    members = categories.astype(jnp.float64)
    means = sums[:, :1] / queries[:, :1] * members
    return jnp.concatenate([sums, means], axis=1), jnp.concatenate([queries, members], axis=1)


def cluster_intervals(
    key: jax.Array, numerators: jax.Array, denominators: jax.Array, num_resamples: int
) -> tuple[jax.Array, jax.Array]:
    """95 % percentile intervals of sum(numerators) / sum(denominators) over resampled objects.

    Resamples without a single object of a statistic (denominators all 0) do not count for it. With
    one object every resample is the same: the interval is the value itself, twice.

    Args:
        key: a typed random key.
        numerators, denominators: [O, S] float64, what object o adds to those of statistic s.
        num_resamples: how many.

    Returns:
        (low, high), both [S] float64; NaN for a statistic whose denominators are all 0.
    """
    sums = jnp.concatenate([numerators, denominators], axis=1)

    def resample_sums(resample: jax.Array) -> jax.Array:
        drawn = draw_objects(key, resample, len(sums))
        return jnp.bincount(drawn, length=len(sums)).astype(sums.dtype) @ sums

    numbers = jnp.arange(num_resamples, dtype=jnp.uint32)
    resampled = jax.lax.map(resample_sums, numbers, batch_size=_BATCH)
    above, below = jnp.split(resampled, 2, axis=1)
    ratios = jnp.where(below > 0, above / below, jnp.nan)
    low, high = jnp.nanquantile(ratios, jnp.array([0.025, 0.975]), axis=0)
    value = numerators.sum(axis=0) / denominators.sum(axis=0)
    single = (denominators > 0).sum(axis=0) == 1
    return jnp.where(single, value, low), jnp.where(single, value, high)


def paired_differences(
    a: np.ndarray,
    b: np.ndarray,
    query_object: np.ndarray,
    categories: np.ndarray,
    num_resamples: int,
    num_permutations: int,
    seed: int,
) -> dict[str, np.ndarray]:
    """Compares two runs' scores of the same Q queries of O objects; see the module.

    Args:
        a, b: [G, Q] float64, the runs' APs; the first row is all queries, further rows are groups,
            NaN where a query does not count.
        query_object: [Q] int32 numbers 0..O-1 of the queries' objects, each used.
        categories: [O, C] bool, the object is in the category.
        num_resamples: of the bootstrap, at least 40.
        num_permutations: random sign patterns, at least 1.
        seed: of both, in [0, 2**32).

    Returns:
        [G + C] float64 each, rows of `a` then categories: the means `a` and `b` (over queries for
        rows, over objects' means for categories), `difference` b - a, `low` and `high` ends of its
        95 % interval, `p_value` in (0, 1], and `count`, the queries or objects behind the means.
    """
    with jax.enable_x64(True):
        arrays = jax.device_put((a, b, query_object, categories, np.uint32(seed)))
        return jax.device_get(_paired_numbers(*arrays, num_resamples, num_permutations))


@functools.partial(jax.jit, static_argnames=("num_resamples", "num_permutations"))
def _paired_numbers(
    a: jax.Array,
    b: jax.Array,
    query_object: jax.Array,
    categories: jax.Array,
    seed: jax.Array,
    num_resamples: int,
    num_permutations: int,
) -> dict[str, jax.Array]:
    counted = ~jnp.isnan(a)
    of_a, of_b, differences = (
        object_sums(values, counted, query_object, categories)[0] for values in (a, b, b - a)
    )
    _, denominators = object_sums(a, counted, query_object, categories)
    total = denominators.sum(axis=0)
    draws, flips = jax.random.split(jax.random.key(seed, impl="threefry2x32"))
    low, high = cluster_intervals(draws, differences, denominators, num_resamples)
    return {
        "a": of_a.sum(axis=0) / total,
        "b": of_b.sum(axis=0) / total,
        "difference": differences.sum(axis=0) / total,
        "low": low,
        "high": high,
        "p_value": _p_values(flips, differences, num_permutations),
        "count": total,
    }


def _p_values(key: jax.Array, differences: jax.Array, num_permutations: int) -> jax.Array:
    """[S] p-values of the differences [O, S] that objects add to each statistic."""
    # A pattern that gives the same sum must count, in whatever order it was added up.
    seen = jnp.abs(differences.sum(axis=0)) - _ROUNDING * jnp.abs(differences).sum(axis=0)

    def reaches(permutation: jax.Array) -> jax.Array:
        signs = _signs(key, permutation, len(differences))
        return jnp.abs(signs.astype(jnp.float64) @ differences) >= seen

    numbers = jnp.arange(num_permutations, dtype=jnp.uint32)
    reached = jax.lax.map(reaches, numbers, batch_size=_BATCH)
    return (1.0 + reached.sum(axis=0)) / (1.0 + num_permutations)


def _signs(key: jax.Array, permutation: jax.Array, num_objects: int) -> jax.Array:
    """[O] int32 of -1 and +1 for one permutation, given its number."""
    return (_bits(key, permutation, num_objects) >> 31).astype(jnp.int32) * 2 - 1


def _bits(key: jax.Array, number: jax.Array, num_objects: int) -> jax.Array:
    """[O] uint32 random bits of a numbered resample or permutation."""
    return jax.random.bits(jax.random.fold_in(key, number), (num_objects,), jnp.uint32)
