"""Measures the embedding step: batches of the configured shapes through random parameters."""

import dataclasses
import functools
import math
from collections.abc import Mapping

import jax
import numpy as np
from jax.sharding import Mesh

from ilias_jax.batching import Batch
from ilias_jax.embed import Embedder, place_parameters
from ilias_jax.errors import UserError
from ilias_jax.extraction import images_forward
from ilias_jax.mesh import num_data_partitions, parameter_sharding
from ilias_jax.model import Model, Preprocessing
from ilias_jax.plan.flops import image_flops
from ilias_jax.plan.recipe import Recipe
from ilias_jax.plan.stopwatch import resident_bytes, steady_seconds
from ilias_jax.towers.load import tower_model
from ilias_jax.towers.parameters import parameter_shapes
from ilias_jax.towers.siglip_rows import TINY, TINY_RESOLUTION
from ilias_jax.towers.two_towers import TowersConfig
from ilias_jax.towers.vit import VitConfig

_PROBE_SHARE = 0.1  # of the time, for finding out how much can be measured
_ROOM = 2.2  # runs that a measurement takes: one to compile and one to time
_AT_ONCE = 3  # batches that are timed together, as a run keeps several on their way


@dataclasses.dataclass(frozen=True)
class Trial:
    """What is really run: layers of the image tower and images of a batch on each device."""

    depth: int
    size: int


@dataclasses.dataclass(frozen=True)
class EmbedCost:
    """What was measured.

    Attributes:
        batch_seconds: token length -> seconds of a whole batch.
        temporary_bytes: of the largest batch, on one device.
        flops_per_second: of all devices.
        how: lines for the report.
    """

    batch_seconds: dict[int, float]
    temporary_bytes: int
    flops_per_second: float
    how: tuple[str, ...]


def measure(recipe: Recipe, mesh: Mesh, lengths: list[int], seconds: float) -> EmbedCost:
    """Times one batch of each length, or a part of it that the time allows.

    Args:
        recipe: the recipe.
        mesh: of the devices.
        lengths: token lengths that images really have.
        seconds: to spend, compilation apart.

    Raises:
        UserError: a batch does not fit the device's memory.
    """
    size = recipe.config.embed.batch_size_per_device
    whole = Trial(recipe.image.size.depth, size)
    temporary = temporary_bytes(recipe, mesh, max(lengths))
    probe = Trial(1, 1)
    probed = _seconds(recipe, mesh, probe, min(lengths), _PROBE_SHARE * seconds)
    rate = trial_flops(recipe, mesh, probe, min(lengths)) / probed
    budget = (1 - _PROBE_SHARE) * seconds / len(lengths)
    cost, trials, flops = {}, {}, 0.0
    for length in lengths:
        trials[length] = trial = choose(recipe, mesh, length, rate, budget)
        measured = _seconds(recipe, mesh, trial, length, budget / _ROOM)
        done = trial_flops(recipe, mesh, trial, length)
        rate = done / measured
        cost[length] = measured * trial_flops(recipe, mesh, whole, length) / done
        flops += trial_flops(recipe, mesh, whole, length)
    rate = flops / sum(cost.values())
    how = (_describe(recipe, cost, trials, whole, rate),)
    return EmbedCost(cost, temporary, rate, how)


def compiled_bytes(recipe: Recipe, mesh: Mesh) -> int:
    """Peak memory of this process once it has compiled and run a layer of the bundled model."""
    assert TINY.image is not None
    how = Preprocessing(TINY_RESOLUTION, TINY.image.patch_size)
    architecture = TowersConfig(TINY.image)
    tiny = dataclasses.replace(recipe, architecture=architecture, preprocessing=how)
    _seconds(tiny, mesh, Trial(1, 1), how.max_side**2, 0)
    return resident_bytes()


def trial_flops(recipe: Recipe, mesh: Mesh, trial: Trial, length: int) -> float:
    """Operations of a trial's batch on all devices together."""
    image = _shrunk(recipe.image, trial.depth)
    return trial.size * num_data_partitions(mesh) * image_flops(image, length)


def choose(recipe: Recipe, mesh: Mesh, length: int, rate: float, budget: float) -> Trial:
    """The largest trial that the time allows: all of it, else fewer layers, else fewer images.

    Fewer layers leave the shapes as they are, so that they come first.

    Args:
        recipe: the recipe.
        mesh: of the devices.
        length: tokens of an image.
        rate: operations a second that are expected.
        budget: seconds.
    """
    size = recipe.config.embed.batch_size_per_device
    depth = recipe.image.size.depth
    affordable = budget / _ROOM * rate
    while depth > 1 and trial_flops(recipe, mesh, Trial(depth, size), length) > affordable:
        depth = max(1, depth // 2)
    each = trial_flops(recipe, mesh, Trial(depth, 1), length)
    return Trial(depth, max(1, min(size, math.floor(affordable / each))))


def temporary_bytes(recipe: Recipe, mesh: Mesh, length: int) -> int:
    """Bytes that the compiler plans for a whole batch of this length on a device."""
    size = recipe.config.embed.batch_size_per_device
    shapes = {
        path: jax.ShapeDtypeStruct(shape, np.float32, sharding=parameter_sharding(mesh, shape))
        for path, shape in parameter_shapes(recipe.architecture).items()
    }
    embedder = Embedder(_forward(recipe, recipe.architecture), shapes, mesh, size)
    arrays = _arrays(recipe, embedder.batch_size, length)
    return embedder.temporary_bytes([jax.ShapeDtypeStruct(a.shape, a.dtype) for a in arrays])


def _seconds(recipe: Recipe, mesh: Mesh, trial: Trial, length: int, budget: float) -> float:
    """Steady seconds of one batch of a trial, transfers to and from the devices included."""
    image = _shrunk(recipe.image, trial.depth)
    parameters = place_parameters(_parameters(image), mesh)
    embedder = Embedder(_forward(recipe, TowersConfig(image)), parameters, mesh, trial.size)
    arrays = _arrays(recipe, embedder.batch_size, length)
    rows = np.arange(embedder.batch_size, dtype=np.int64)
    batch = Batch(tuple(map(np.array, arrays)), rows, np.zeros_like(rows))
    try:
        one = steady_seconds(lambda: list(embedder.run([batch])), 0)
        if (_AT_ONCE + 1) * one > budget:
            return one
        return steady_seconds(lambda: list(embedder.run([batch] * _AT_ONCE)), budget) / _AT_ONCE
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise UserError(
            f"embed.batch_size_per_device={trial.size}: a batch of {length} tokens does not fit "
            f"the device ({str(error).splitlines()[0]}); lower it"
        ) from error


def _shrunk(image: VitConfig, depth: int) -> VitConfig:
    """The image tower with fewer layers."""
    return dataclasses.replace(image, size=dataclasses.replace(image.size, depth=depth))


def _forward(recipe: Recipe, architecture: TowersConfig) -> functools.partial[jax.Array]:
    config = recipe.config
    model: Model = tower_model(
        config.model.name,
        architecture,
        {},
        None,
        recipe.preprocessing.resolution,
        config.model.dtype,
        {},
        recipe.preprocessing.max_scale,
        config.model.attention,
    )
    return functools.partial(images_forward, model)


def _parameters(image: VitConfig) -> Mapping[str, np.ndarray]:
    """Small random values, of which a short row is repeated: their speed is that of any others."""
    row = np.random.default_rng(0).normal(scale=0.02, size=4093).astype(np.float32)
    shapes = parameter_shapes(TowersConfig(image))
    return {path: np.resize(row, shape) for path, shape in shapes.items()}


def _arrays(recipe: Recipe, batch_size: int, length: int) -> tuple[np.ndarray, ...]:
    """What a batch of images that fill T holds; pixels are zeros that take no memory."""
    how = recipe.preprocessing
    side = how.max_side
    rows = np.array([length // side * how.patch_size, side * how.patch_size], np.int32)
    sizes = np.tile(rows, (batch_size, 1))
    if canvas := recipe.canvas:
        pixels = np.broadcast_to(np.uint8(0), (batch_size, canvas, canvas, 3))
        return pixels, np.minimum(sizes, canvas), sizes, np.ones((batch_size, length), bool)
    dtype = np.uint8 if recipe.patch_bytes == how.patch_size**2 * 3 else np.float32
    return np.broadcast_to(dtype(0), (batch_size, length, how.patch_size**2 * 3)), sizes


def _describe(
    recipe: Recipe,
    cost: Mapping[int, float],
    trials: Mapping[int, Trial],
    whole: Trial,
    rate: float,
) -> str:
    """The line of the report."""
    part = {
        length: f" (from {trial.depth} of {whole.depth} layers, {trial.size} of {whole.size} images"
        " a device, by operations)"
        for length, trial in trials.items()
        if trial != whole
    }
    batches = ", ".join(
        f"{length} tokens {seconds:.3g} s{part.get(length, '')}" for length, seconds in cost.items()
    )
    return (
        f"embedding, random parameters: a batch of {recipe.config.embed.batch_size_per_device} "
        f"images a device takes {batches}; {rate / 1e9:,.0f} GFLOP/s in all"
    )
