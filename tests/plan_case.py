"""A small recipe and round constants, so that predictions can be computed by hand."""

import dataclasses

from ilias_jax.config import parse
from ilias_jax.plan.constants import Calibration, Constants, Linear, SearchCost, config_keys
from ilias_jax.plan.recipe import Recipe, read_recipe
from ilias_jax.plan.sizes import Sizes

VALUES = {
    "dataset": {"data_dir": "nowhere", "read_threads": 2},
    "model": {"name": "tiny"},
    "embed": {"batch_size_per_device": 32, "num_buckets": 2},
    "search": {"k": 100, "block_rows": 1000, "scann": {}},
}


def make_recipe(**sections: dict) -> Recipe:
    """The tiny model's recipe with other values in some sections."""
    values = {key: {**VALUES.get(key, {}), **sections.get(key, {})} for key in VALUES | sections}
    return read_recipe(parse(values))


RECIPE = make_recipe()
SIZES = Sizes("mini", 40, 10, 50, 9_950, 5, 1_000.0)
CONSTANTS = Constants(
    backend="cpu",
    num_devices=1,
    num_cpus=4,
    memory_bytes=1e12,
    device_bytes=1e12,
    process_bytes=1e8,
    compiled_bytes=2e8,
    # Two lengths as here; all four of photos' and the world's where a test takes the defaults.
    batch_seconds={40: 0.4, 48: 0.5, 56: 0.75, 64: 1.0},
    batch_temporary_bytes=1e6,
    text_flops_per_second=1e9,
    photo_reads=100.0,
    world_reads=200.0,
    world_draws=50.0,
    world_bytes=10_000.0,
    disk_write=1e8,
    disk_read=2e8,
    convert=1e7,
    search=SearchCost(0.25, 1e-6, 1e-7),
    product=1e-8,
    scann_build=1e-9,
    scann_search=1e-8,
    metrics=Linear(0.1, 0.001),
)


def with_constants(**values: object) -> Constants:
    """The constants with other values."""
    return dataclasses.replace(CONSTANTS, **values)


def make_calibration(recipe: Recipe = RECIPE, constants: Constants = CONSTANTS) -> Calibration:
    """Constants as if measured."""
    machine = {"platform": "abacus", "devices": "1 x cpu", "jax": "0.10.2"}
    return Calibration(constants, machine, config_keys(recipe.config), ("beads: 3 a second",))
