"""The bootstrap on the host draws what the one on the device draws."""

import jax
import numpy as np
import pytest

from ilias_jax.metrics import bootstrap, host_bootstrap


@pytest.mark.parametrize("seed", [0, 7, 2**32 - 1])
@pytest.mark.parametrize("num_objects", [1, 5, 1000])
def test_draws_are_those_of_jax(seed: int, num_objects: int) -> None:
    numbers = np.array([0, 1, 9999])
    with jax.enable_x64(True):
        key = jax.random.key(np.uint32(seed), impl="threefry2x32")
        wanted = [bootstrap.draw_objects(key, np.uint32(n), num_objects) for n in numbers]
    found = host_bootstrap.draw_objects(seed, numbers, num_objects)
    assert np.array_equal(found, np.stack(wanted))


@pytest.mark.parametrize("num_objects", [1, 6, 3000])
def test_intervals_are_those_of_the_device(num_objects: int) -> None:
    """Also of statistics with one object, and of none; over more than one block of resamples."""
    rng = np.random.default_rng(num_objects)
    numerators = rng.random((num_objects, 4))
    denominators = rng.integers(1, 3, (num_objects, 4)).astype(np.float64)
    denominators[:, 2] = numerators[:, 2] = 0
    denominators[1:, 3] = numerators[1:, 3] = 0
    with jax.enable_x64(True):
        key = jax.random.key(np.uint32(4), impl="threefry2x32")
        arrays = jax.device_put((numerators, denominators))
        wanted = bootstrap.cluster_intervals(key, *arrays, 400)
        wanted = np.stack(jax.device_get(wanted))
    found = np.stack(host_bootstrap.cluster_intervals(4, numerators, denominators, 400))
    np.testing.assert_allclose(found, wanted, rtol=1e-12)
    assert np.isnan(found[:, 2]).all() and found[0, 3] == found[1, 3]
