"""Percentiles against numpy's, and the sort through integers against that of floats."""

import jax
import numpy as np
import pytest

from ilias_jax.metrics.percentiles import _sorted_as_integers, percentiles

PERCENTS = (0.0, 2.5, 33.0, 97.5, 100.0)


@pytest.mark.parametrize("num_rows", [1, 2, 40, 1001])
def test_equal_those_of_numpy(num_rows):
    """Of negative numbers too, and of columns of which some, one or no row is counted."""
    rng = np.random.default_rng(num_rows)
    values = rng.normal(size=(num_rows, 6))
    counted = rng.random(values.shape) < (1.0, 0.5, 0.1, 0.9, 0.0, 0.0)
    counted[-1, 4] = True
    values[~counted] = np.nan
    with jax.enable_x64(True):
        found = np.asarray(percentiles(jax.device_put(values), counted, PERCENTS))
    assert found.shape == (5, 6) and found.dtype == np.float64
    for column, kept, wanted in zip(values.T, counted.T, found.T, strict=True):
        if kept.any():
            assert wanted == pytest.approx(np.percentile(column[kept], PERCENTS), abs=1e-14)
        else:
            assert np.isnan(wanted).all()


def test_integers_sort_as_their_floats():
    rng = np.random.default_rng(0)
    special = [np.inf, -np.inf, 5e-324, -5e-324, 1e-310, -1e-310, 1.0, np.nextafter(1.0, 2.0)]
    values = np.concatenate([special, rng.normal(size=500), 1e-300 * rng.normal(size=500)])
    rng.shuffle(values)
    with jax.enable_x64(True):
        found = jax.jit(_sorted_as_integers)(values[:, None])
    np.testing.assert_array_equal(np.asarray(found)[:, 0], np.sort(values))
