"""Measures what prepares images: reading a shard, decoding, resizing, batching; and drawing."""

import dataclasses
import pathlib
import statistics
import tempfile
import time
from collections.abc import Sequence

from etils import epath

from ilias_jax.batching import batch_items
from ilias_jax.dataset import shards
from ilias_jax.dataset.reader import IliasDataset
from ilias_jax.embed import Named
from ilias_jax.extraction import read_items
from ilias_jax.plan.pictures import photograph, world_picture
from ilias_jax.plan.recipe import Recipe
from ilias_jax.plan.tokens import lengths_of
from ilias_jax.records import ImageRecord

_DIFFERENT = 32  # pictures that are drawn; a shard repeats them
_LEAST, _MOST = 64, 4096  # records of a shard
_PROBE = 64


@dataclasses.dataclass(frozen=True)
class HostCost:
    """Images a second of the reader threads together, drawing by one process, and mean bytes."""

    photo_reads: float
    world_reads: float
    world_draws: float
    world_bytes: float
    how: tuple[str, ...]


def measure(recipe: Recipe, folder: pathlib.Path, seconds: float) -> HostCost:
    """Times the run's own reader on a shard of photographs and on one of the world's pictures.

    Args:
        recipe: the recipe.
        folder: takes the shards, which are removed again.
        seconds: to spend.
    """
    start = time.perf_counter()
    drawn = [world_picture(seed) for seed in range(_DIFFERENT)]
    draws = len(drawn) / (time.perf_counter() - start)
    photographs = [photograph(seed) for seed in range(_DIFFERENT)]
    photo_reads = reads_per_second(recipe, photographs, folder, seconds / 2)
    world_reads = reads_per_second(recipe, drawn, folder, seconds / 2)
    threads = recipe.config.dataset.read_threads
    how = (
        f"reading, decoding, resizing and batching with {threads} threads: {photo_reads:,.0f} "
        f"images/s of 500 x 375 and {statistics.mean(map(len, photographs)) / 1e3:,.0f} kB, "
        f"{world_reads:,.0f}/s of the demo's",
        f"drawing the demo's pictures: {draws:,.0f}/s in one process",
    )
    return HostCost(photo_reads, world_reads, draws, statistics.mean(map(len, drawn)), how)


def reads_per_second(
    recipe: Recipe, jpegs: Sequence[bytes], folder: pathlib.Path, seconds: float
) -> float:
    """Images a second from a shard to batches, of which the first few tell how many to take."""
    rate = _reads_per_second(recipe, jpegs, folder, _PROBE)
    count = max(_LEAST, min(_MOST, int(rate * seconds * 0.8)))
    return _reads_per_second(recipe, jpegs, folder, count)


def _reads_per_second(
    recipe: Recipe, jpegs: Sequence[bytes], folder: pathlib.Path, count: int
) -> float:
    with tempfile.TemporaryDirectory(dir=folder, prefix=".plan-") as temporary:
        dataset = write_shard(pathlib.Path(temporary), jpegs, count)
        (shard,) = dataset.shards("distractor")
        how, config = recipe.preprocessing, recipe.config
        lengths = lengths_of(how, config.views, config.embed)
        named = Named([], [], [])
        start = time.perf_counter()
        items = read_items(dataset, how, config, shard, named)
        for _ in batch_items(items, lengths, config.embed.batch_size_per_device):
            pass
        elapsed = time.perf_counter() - start
    if len(named.ids) != count:
        raise RuntimeError(f"{len(named.ids)} of {count} pictures were read")
    return count / elapsed


def write_shard(data_dir: pathlib.Path, jpegs: Sequence[bytes], count: int) -> IliasDataset:
    """A data folder with one shard of distractors that repeats some pictures."""
    records = (
        ImageRecord(f"plan.tar/{number:08d}", jpegs[number % len(jpegs)]) for number in range(count)
    )
    done = shards.write_image_shard(data_dir, "distractor", 0, 1, records)
    shards.write_metadata(
        shards.images_folder(data_dir), shards.image_features(), {"distractor": [done]}, "pictures"
    )
    return IliasDataset(epath.Path(data_dir))
