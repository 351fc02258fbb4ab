"""All measurements of a machine, one after the other, within a budget of time."""

import datetime
import os
import pathlib
import platform
from collections.abc import Callable

import jax
from jax.sharding import Mesh

from ilias_jax import manifest
from ilias_jax.plan import (
    calibrate_disk,
    calibrate_embed,
    calibrate_host,
    calibrate_metrics,
    calibrate_scann,
    calibrate_search,
)
from ilias_jax.plan.constants import Calibration, Constants, config_keys
from ilias_jax.plan.recipe import Recipe
from ilias_jax.plan.stopwatch import resident_bytes
from ilias_jax.plan.tokens import PHOTO_ASPECTS, WORLD_ASPECTS
from ilias_jax.search.exact import ExactSearch
from ilias_jax.search.scann import ScannSearch

# Shares of the time; compilation comes on top.
_SHARES = {
    "embed": 0.4,
    "host": 0.15,
    "disk": 0.1,
    "search": 0.2,
    "scann": 0.1,
    "metrics": 0.05,
}
Tell = Callable[[str], None]


def measure(
    recipe: Recipe, mesh: Mesh, folder: pathlib.Path, seconds: float, tell: Tell
) -> Calibration:
    """Measures everything.

    Args:
        recipe: the recipe.
        mesh: of this machine's devices.
        folder: whose disk is measured.
        seconds: to spend, compilation apart.
        tell: hears what is measured next.

    Raises:
        UserError: a batch does not fit the device's memory.
    """
    process_bytes = resident_bytes()
    compiled_bytes = calibrate_embed.compiled_bytes(recipe, mesh)
    share = {name: seconds * part for name, part in _SHARES.items()}
    lengths = sorted({*recipe.shares(PHOTO_ASPECTS), *recipe.shares(WORLD_ASPECTS)})
    tell("disk and conversion")
    disk = calibrate_disk.measure(folder, share["disk"])
    tell("reading images")
    host = calibrate_host.measure(recipe, folder, share["host"])
    tell(f"embedding, {len(lengths)} token lengths")
    embed = calibrate_embed.measure(recipe, mesh, lengths, share["embed"])
    tell("exact search")
    search = _measure_search(recipe, mesh, share["search"])
    tell("ScaNN")
    scann = _measure_scann(recipe, share["scann"])
    tell("metrics")
    metrics = calibrate_metrics.measure(recipe, share["metrics"])
    memory = _memory_bytes()
    constants = Constants(
        backend=jax.default_backend(),
        num_devices=mesh.size,
        num_cpus=os.cpu_count() or 1,
        memory_bytes=memory,
        device_bytes=_device_bytes() or memory,
        process_bytes=process_bytes,
        compiled_bytes=compiled_bytes,
        batch_seconds=embed.batch_seconds,
        batch_temporary_bytes=embed.temporary_bytes,
        text_flops_per_second=embed.flops_per_second,
        photo_reads=host.photo_reads,
        world_reads=host.world_reads,
        world_draws=host.world_draws,
        world_bytes=host.world_bytes,
        disk_write=disk.write,
        disk_read=disk.read,
        convert=disk.convert,
        search=search.search,
        product=search.product,
        scann_build=scann.build,
        scann_search=scann.search,
        metrics=metrics.cost,
    )
    how = (*disk.how, *host.how, *embed.how, *search.how, *scann.how, *metrics.how)
    return Calibration(constants, describe_machine(), config_keys(recipe.config), how)


def _measure_search(recipe: Recipe, mesh: Mesh, seconds: float) -> calibrate_search.SearchCosts:
    settings = recipe.config.search
    exact = ExactSearch(mesh, settings.block_rows)
    return calibrate_search.measure(
        recipe, mesh, lambda rows, queries: exact.open(rows, settings.k).search(queries), seconds
    )


def _measure_scann(recipe: Recipe, seconds: float) -> calibrate_scann.ScannCosts:
    settings = recipe.config.search
    backend = ScannSearch(settings.scann)
    return calibrate_scann.measure(
        recipe, lambda rows: backend.open(rows, settings.k).search, seconds
    )


def describe_machine() -> dict[str, object]:
    """The machine with what a reader of its constants must know."""
    return {
        **manifest.machine(),
        "jax": jax.__version__,
        "python": platform.python_version(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _device_bytes() -> int:
    """Memory of one device, 0 where it has none of its own."""
    facts = jax.local_devices()[0].memory_stats() or {}
    return int(facts.get("bytes_limit", 0))
