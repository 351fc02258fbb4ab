"""Intervals and paired differences against slow oracles, and what a p-value must be."""

import itertools
import types
from typing import NamedTuple

import jax
import numpy as np
import pytest

from ilias_jax.metrics.intervals import (
    _signs,
    cluster_intervals,
    draw_objects,
    paired_differences,
)


class Inputs(NamedTuple):
    """The arrays of two runs."""

    a: np.ndarray
    b: np.ndarray
    query_object: np.ndarray
    categories: np.ndarray


def compare(inputs: Inputs, num_resamples: int, num_permutations: int, seed: int):
    found = paired_differences(*inputs, num_resamples, num_permutations, seed)
    return types.SimpleNamespace(**found)


def intervals(numerators, denominators, num_resamples: int, seed: int = 0) -> np.ndarray:
    """[2, S], compiled once for a shape and a number of resamples."""
    with jax.enable_x64(True):
        key = jax.random.key(np.uint32(seed), impl="threefry2x32")
        return np.stack(_intervals(key, numerators, denominators, num_resamples))


_intervals = jax.jit(cluster_intervals, static_argnums=3)


@pytest.mark.parametrize("num_resamples", [150, 600])
def test_intervals_equal_a_plain_bootstrap(num_resamples):
    """Ratios of sums over drawn objects; with negative numbers, and less or more than a batch."""
    rng = np.random.default_rng(5)
    sizes = rng.integers(0, 4, (12, 5)).astype(np.float64)
    sums = sizes * rng.normal(size=sizes.shape)
    with jax.enable_x64(True):
        key = jax.random.key(np.uint32(3), impl="threefry2x32")
        draw = jax.jit(lambda number: draw_objects(key, number, 12))
        drawn = np.stack([draw(np.uint32(number)) for number in range(num_resamples)])
    assert drawn.min() == 0 and drawn.max() == 11 and len(np.unique(drawn, axis=0)) > 140
    ratios = [sums[one].sum(axis=0) / sizes[one].sum(axis=0) for one in drawn]
    wanted = np.percentile(ratios, [2.5, 97.5], axis=0)
    assert intervals(sums, sizes, num_resamples, seed=3) == pytest.approx(wanted, abs=1e-12)


def test_one_object_gives_its_own_value_as_interval():
    """To the last bit, though 3 x / 3 is not x for some of these."""
    numerators, denominators = np.zeros((2, 4, 50))
    numerators[1], denominators[1] = np.random.default_rng(2).random(50), 7.0
    for bound in intervals(numerators, denominators, 100):
        assert np.array_equal(bound, numerators[1] / 7)


def test_resamples_without_a_group_do_not_count_for_it():
    """Two of forty objects are in the first group: about 13 % of the resamples have neither."""
    numerators, denominators = np.zeros((2, 40, 2))
    numerators[:2, 0], denominators[:2, 0] = (10.0, 20.0), 1.0
    found = intervals(numerators, denominators, 2000)
    assert found[:, 0].tolist() == [10.0, 20.0] and np.isnan(found[:, 1]).all()


def test_intervals_cover_the_truth_about_95_times_in_100():
    """60 objects with 1 to 3 queries that share the object's own mean; the true mean is 0."""
    rng, covered = np.random.default_rng(8), 0
    for trial in range(300):
        sizes = rng.integers(1, 4, 60).astype(np.float64)
        sums = sizes * rng.normal(size=60) + np.sqrt(sizes) * 0.3 * rng.normal(size=60)
        low, high = intervals(sums[:, None], sizes[:, None], 400, seed=trial)
        covered += bool(low[0] <= 0 <= high[0])
    # Drawing queries instead of objects covers about 78 %.
    assert 0.90 * 300 <= covered <= 0.985 * 300


def test_drawn_objects_are_uniform():
    with jax.enable_x64(True):
        drawn = np.asarray(draw_objects(jax.random.key(1), np.uint32(0), 60_000))
    assert drawn.min() >= 0 and drawn.max() < 60_000
    counts = np.histogram(drawn, bins=10, range=(0, 60_000))[0]
    assert np.abs(counts - 6000).max() < 4 * np.sqrt(6000)
    assert np.unique(drawn).size / 60_000 == pytest.approx(1 - np.exp(-1), abs=0.01)


def random_inputs(rng, num_objects=12, num_queries=30, num_groups=3) -> Inputs:
    query_object = np.concatenate(
        [np.arange(num_objects), rng.integers(0, num_objects, num_queries - num_objects)]
    ).astype(np.int32)
    a = 100 * rng.random((num_groups, num_queries))
    b = np.clip(a + rng.normal(0, 20, a.shape), 0, 100)
    out = rng.random(a.shape) < 0.4
    out[0] = False
    a[out], b[out] = np.nan, np.nan
    categories = np.arange(num_objects)[:, None] % 2 == np.arange(2)
    return Inputs(a, b, query_object, categories)


def oracle_statistics(inputs: Inputs, objects, values) -> list[float]:
    """Means of values [G, Q] over a list of objects, an object as often as it is listed."""
    found = []
    for row in values:
        picked = [v for o in objects for v in row[inputs.query_object == o] if not np.isnan(v)]
        found.append(np.mean(picked) if picked else np.nan)
    for members in inputs.categories.T:
        means = [np.mean(values[0][inputs.query_object == o]) for o in objects if members[o]]
        found.append(np.mean(means) if means else np.nan)
    return found


def test_means_and_differences_equal_the_oracle():
    inputs = random_inputs(np.random.default_rng(0))
    result = compare(inputs, 40, 10, seed=0)
    every = range(len(inputs.categories))
    a, b = (oracle_statistics(inputs, every, values) for values in (inputs.a, inputs.b))
    assert result.a == pytest.approx(a, abs=1e-9)
    assert result.b == pytest.approx(b, abs=1e-9)
    assert result.difference == pytest.approx(np.subtract(b, a), abs=1e-9)
    assert result.count.tolist() == [*(~np.isnan(inputs.a)).sum(axis=1), 6, 6]


def test_intervals_are_those_of_a_paired_bootstrap_in_numpy():
    inputs = random_inputs(np.random.default_rng(1))
    result = compare(inputs, 4000, 10, seed=0)
    rng = np.random.default_rng(2)
    num_objects = len(inputs.categories)
    # The difference is taken within the resample: both runs see the same objects.
    drawn = [
        oracle_statistics(inputs, rng.integers(0, num_objects, num_objects), inputs.b - inputs.a)
        for _ in range(800)
    ]
    low, high = np.nanpercentile(drawn, [2.5, 97.5], axis=0)
    assert result.low == pytest.approx(low, abs=2.0)
    assert result.high == pytest.approx(high, abs=2.0)
    assert ((result.low <= result.difference) & (result.difference <= result.high)).all()


def exact_p_values(inputs: Inputs) -> np.ndarray:
    """Shares over all 2^O patterns of swaps, each carried out on the scores themselves."""
    num_objects = len(inputs.categories)

    def seen(a, b):
        differences = [
            np.subtract(*(oracle_statistics(inputs, range(num_objects), v) for v in (b, a)))
        ]
        return np.abs(differences[0])

    actual, reached = seen(inputs.a, inputs.b), []
    for swap in itertools.product([False, True], repeat=num_objects):
        swapped = np.array(swap)[inputs.query_object]
        a = np.where(swapped, inputs.b, inputs.a)
        b = np.where(swapped, inputs.a, inputs.b)
        reached.append(seen(a, b) >= actual - 1e-9)
    return np.mean(reached, axis=0)


def test_p_values_approach_those_of_all_swaps():
    inputs = random_inputs(np.random.default_rng(3), num_objects=7, num_queries=15)
    expected = exact_p_values(inputs)
    result = compare(inputs, 40, 20_000, seed=0)
    assert expected.min() < 0.3  # else any large number would pass
    assert result.p_value == pytest.approx(expected, abs=0.012)  # three standard errors


def test_p_values_of_one_seed_are_those_of_its_signs():
    """The number itself, swap for swap: T at least as large as seen, the seen pattern once more."""
    inputs = random_inputs(np.random.default_rng(4))
    result = compare(inputs, 40, 25, seed=9)
    with jax.enable_x64(True):
        key = jax.random.split(jax.random.key(np.uint32(9), impl="threefry2x32"))[1]
        signs = [np.asarray(_signs(key, np.uint32(i), 12)) for i in range(25)]
    assert {-1, 1} == set(np.unique(signs))
    sums = np.zeros(12)
    np.add.at(sums, inputs.query_object, inputs.b[0] - inputs.a[0])
    count = sum(abs(s @ sums) >= abs(sums.sum()) for s in signs)
    assert result.p_value[0] == (1 + count) / 26


def test_the_pattern_that_was_seen_counts_in_whatever_order_it_is_added_up():
    """Of 2^4 patterns two reach |0.1 + 0.2 + 0.3 + 0.7|, whose sums differ in their last bits."""
    owner = np.arange(4, dtype=np.int32)
    b = np.array([[0.1, 0.2, 0.3, 0.7]])
    result = compare(Inputs(np.zeros((1, 4)), b, owner, np.zeros((4, 0), bool)), 40, 500, seed=0)
    assert result.p_value[0] == pytest.approx(2 / 16, abs=0.03)


def test_equal_runs_do_not_differ():
    inputs = random_inputs(np.random.default_rng(5))
    result = compare(inputs._replace(b=inputs.a), 40, 50, seed=0)
    assert not result.difference.any() and not result.low.any() and not result.high.any()
    assert (result.p_value == 1.0).all()


def test_swapping_the_runs_turns_the_difference_around():
    inputs = random_inputs(np.random.default_rng(6))
    one = compare(inputs, 100, 100, seed=0)
    two = compare(inputs._replace(a=inputs.b, b=inputs.a), 100, 100, seed=0)
    np.testing.assert_array_equal(one.p_value, two.p_value)
    assert one.difference == pytest.approx(-two.difference)
    assert one.low == pytest.approx(-two.high)


def null_p_values(seed: int, num_pairs: int, queries_of_object: int) -> np.ndarray:
    """p-values of pairs whose runs differ by chance alone, alike for all queries of an object."""
    rng = np.random.default_rng(seed)
    query_object = np.repeat(np.arange(30), queries_of_object).astype(np.int32)
    found = []
    for pair in range(num_pairs):
        hard = rng.random(30)[query_object]
        a, b = (100 * np.clip(hard + rng.normal(0, 0.2, 30)[query_object], 0, 1) for _ in "ab")
        inputs = Inputs(a[None], b[None], query_object, np.ones((30, 1), bool))
        found.append(compare(inputs, 40, 399, seed=pair).p_value[0])
    return np.array(found)


@pytest.mark.parametrize("queries_of_object", [1, 5])
def test_p_values_of_chance_are_uniform(queries_of_object):
    """Flips by query instead of by object would give p < 0.05 for a third of the second case."""
    p_values = np.sort(null_p_values(7, 300, queries_of_object))
    steps = np.arange(1, 301) / 300
    assert np.abs(p_values - steps).max() < 0.08  # Kolmogorov-Smirnov: 0.094 at 1 %
    assert 0.02 < np.mean(p_values <= 0.05) < 0.09


def test_a_real_difference_has_a_small_p_value():
    inputs = random_inputs(np.random.default_rng(8), num_objects=40, num_queries=60)
    better = inputs._replace(b=np.clip(inputs.a + 10, 0, 100))
    assert compare(better, 40, 999, seed=0).p_value[0] == 1 / 1000
