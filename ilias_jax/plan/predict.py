"""What a run of a recipe takes: bytes, memory and seconds by stage.

Sizes follow from the recipe by formula; the seconds of a stage are its work over its rate on this
machine, which `rates` measures.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ilias_jax.config import BenchmarkConfig, WorldConfig
from ilias_jax.dataset.layout import OFFICIAL_CORE, OFFICIAL_DISTRACTORS
from ilias_jax.embeddings.extract import canvas_side
from ilias_jax.errors import UserError
from ilias_jax.model import Preprocessing
from ilias_jax.models.dual_encoder import ImageConfig, TextConfig
from ilias_jax.models.parameters import (
    count_parameters,
    hidden_bytes,
    image_flops,
    text_flops,
)
from ilias_jax.models.registry.registry import computed_dtype, specify
from ilias_jax.preprocessing.batching import bucket_shapes
from ilias_jax.preprocessing.views import is_untouched
from ilias_jax.progress import format_bytes
from ilias_jax.search.backends import backends_of
from ilias_jax.search.exact import SPARE_PLACES, WINDOW_BYTES
from ilias_jax.search.scann import make_plan, part_bytes

# Longest by shortest side of what cameras take -> share of the images; an assumption, as no table
# of the official images' sizes is published.
PHOTO_ASPECTS = {1.0: 0.10, 4 / 3: 0.50, 3 / 2: 0.35, 16 / 9: 0.05}
# Published: 6.3 TB in 1,000 tars for 100 M images; mini has 45 in the Hugging Face copy.
IMAGE_BYTES, _NUM_TARS = 6.3e12 / 100e6, (("mini", 45), ("full", 1_000))
QUERIES = OFFICIAL_CORE["image_query"]
_ITEM_BYTES = {"float16": 2, "bfloat16": 2, "float32": 4}
_NUMBER_BYTES = 8  # a record number, or an entry of a ranking: int32 and float32
_ID_BYTES = 50  # of an official id such as yfcc100m_0042.tar/<32 hexadecimal digits>
_LISTED_ID_BYTES = 16  # of an id while the official list is read (`benchmarks/check_size.py`)
_READ_AHEAD = 16  # images that wait for every reader thread
_BATCHES = 6  # three on their way, two that wait for the devices, and one being filled
_SHARD_COPIES = 6  # of vectors: one is collected, two wait, one is put together from its parts
_METRIC_BYTES = 128  # of an entry of a ranking while it is scored


class Recipe(NamedTuple):
    """A configuration with the towers that run and their preprocessing; no weight is read."""

    config: BenchmarkConfig
    image: ImageConfig
    text: TextConfig | None
    num_parameters: int
    preprocessing: Preprocessing

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Token lengths or canvases that images are padded to, rising."""
        views, buckets = self.config.views, self.config.embed.num_buckets
        return bucket_shapes(self.preprocessing, buckets, views.max_scale)

    @property
    def photo(self) -> tuple[float, float]:
        """Tokens and operations of a mean photograph, all views and their padding included."""
        views, tokens, flops = self.config.views, 0.0, 0.0
        for aspect, share in PHOTO_ASPECTS.items():
            for scale in views.scales:
                real = num_tokens(self.preprocessing, aspect, scale)
                # An upright image costs what the same one does that lies.
                shape = next(shape for shape in self.shapes if math.prod(shape) >= real)
                tokens += share * len(views.rotations) * math.prod(shape)
                flops += share * len(views.rotations) * image_flops(self.image, shape)
        return tokens, flops

    @property
    def view_bytes(self) -> int:
        """Of a distractor's largest view in a batch: a canvas, or patches cut on the host."""
        untouched = is_untouched(self.config.views.of("distractor"))
        if untouched and (side := canvas_side(self.config.embed, self.preprocessing)):
            return side**2 * 3
        patch = self.preprocessing.patch_size**2 * 3
        return math.prod(self.shapes[-1]) * patch * (1 if untouched else 4)

    @property
    def vector_bytes(self) -> int:
        """Of a stored embedding."""
        return self.image.embedding_dim * _ITEM_BYTES[self.config.embed.storage_dtype]

    @property
    def passes(self) -> int:
        """Searches of a query."""
        return 2 if self.config.rerank.query_expansion else 1

    @property
    def backends(self) -> list[str]:
        """Names of those that search."""
        return backends_of(self.config.search)


def read_recipe(config: BenchmarkConfig) -> Recipe:
    """Looks the model of a configuration up.

    Raises:
        UserError: there is no such model, it is the user's own, or it cannot run so.
    """
    model, scale = config.model, config.views.max_scale
    if model.factory:
        raise UserError(
            f"model.factory={model.factory}: a plan counts the operations of the table's "
            "models and knows none of others; run the demo's world instead"
        )
    spec = specify(model, max_scale=scale)
    towers, preprocessing = spec.architecture, spec.preprocessing
    assert towers.image is not None and preprocessing is not None  # `specify` saw to it
    # The loss has a temperature and a bias.
    count = sum(count_parameters(towers)) + 2 * towers.sigmoid_loss
    model = dataclasses.replace(model, dtype=computed_dtype(model.dtype))
    config = dataclasses.replace(config, model=model)
    return Recipe(config, towers.image, towers.text, count, preprocessing)


def num_tokens(preprocessing: Preprocessing, aspect: float, scale: float = 1.0) -> int:
    """Patches of an image with this longest by shortest side, at least 1, at a scale."""
    shortest = max(1, math.floor(max(1, int(preprocessing.resolution / aspect)) * scale))
    return preprocessing.side_at(scale) * -(-shortest // preprocessing.patch_size)


class Sizes(NamedTuple):
    """A database with its queries; every tar of distractors becomes a shard."""

    name: str
    image_queries: int
    text_queries: int
    positives: int
    distractors: int
    tars: int

    @property
    def rows(self) -> int:
        """Of the database."""
        return self.positives + self.distractors

    @property
    def images(self) -> int:
        """That are embedded."""
        return self.image_queries + self.rows


def sizes_of(world: WorldConfig | None) -> list[Sizes]:
    """Demo, mini and full; the demo is the recipe's world, or the default one without."""
    one = world or WorldConfig()
    drawn = one.num_image_queries, one.num_objects, one.num_positives, one.num_distractors
    core = OFFICIAL_CORE["image_query"], OFFICIAL_CORE["text_query"], OFFICIAL_CORE["positive"]
    official = (Sizes(name, *core, OFFICIAL_DISTRACTORS[name], tars) for name, tars in _NUM_TARS)
    return [Sizes("demo", *drawn, one.num_tars), *official]


class Rates(NamedTuple):
    """What this machine was measured to do, by each second unless it says otherwise."""

    num_devices: int
    num_cpus: int
    process_bytes: float  # memory of a process that has loaded the libraries
    pictures: float  # drawn and converted by the reading processes together
    picture_bytes: float  # of one of them
    convert: float  # bytes of tars that one process converts
    tokens: float  # that all devices embed, padding included
    write: float  # bytes to the disk
    read: float  # bytes from the disk
    exact: list[tuple[int, float]]  # (rows, seconds of the official image queries), rising
    scann: tuple[float, float]  # seconds of a row that is indexed, and of an official image query
    metrics: float  # seconds of the official image queries
    note: str  # what was embedded


class Stage(NamedTuple):
    """Bytes read, bytes written, which stay, peak bytes of host and a device, and seconds."""

    name: str
    read: float
    written: float
    host: float
    device: float
    seconds: float


def total(stages: list[Stage]) -> Stage:
    """Bytes and seconds added up, memory at its peak."""
    _, read, written, host, device, seconds = zip(*stages, strict=True)
    return Stage("total", sum(read), sum(written), max(host), max(device), sum(seconds))


def predict(
    recipe: Recipe, sizes: Sizes, rates: Rates, num_devices: int, network: float
) -> list[Stage]:
    """All stages of a run over one database, in their order.

    The run's `num_devices` compute in proportion to those measured; `network` is in bytes a second.
    """
    tars = sizes.images * (rates.picture_bytes if sizes.name == "demo" else IMAGE_BYTES)
    stages = _images(recipe, sizes, rates, tars, network)
    stages.append(_embed(recipe, sizes, rates, tars, num_devices))
    if "exact" in recipe.backends:
        stages.append(_exact(recipe, sizes, rates, num_devices))
    if "scann" in recipe.backends:
        stages.append(_scann(recipe, sizes, rates))
    return [*stages, _metrics(recipe, sizes, rates)]


def _images(recipe: Recipe, sizes: Sizes, rates: Rates, tars: float, network: float) -> list[Stage]:
    """Download and conversion, or drawing; a shard is as large as its tar, and both are kept."""
    one = rates.process_bytes
    if sizes.name == "demo":
        host = one * (1 + min(recipe.config.dataset.read_threads, rates.num_cpus))
        return [Stage("generate", tars, 2 * tars, host, 0, sizes.images / rates.pictures)]
    processes = min(sizes.tars, rates.num_cpus)
    seconds = tars / (rates.convert * processes)
    seconds = max(seconds, tars / rates.read + tars / rates.write)
    return [
        Stage("download", tars, tars, one, 0, tars / min(network, rates.write)),
        Stage("convert", tars, tars, one * (1 + processes), 0, seconds),
    ]


def _embed(recipe: Recipe, sizes: Sizes, rates: Rates, tars: float, num_devices: int) -> Stage:
    config, image, work = recipe.config, recipe.image, float(sizes.images)
    partitions, size = config.mesh.model_partitions, config.embed.batch_size_per_device
    item, (tokens, flops) = _ITEM_BYTES[config.model.dtype], recipe.photo
    if recipe.text is not None:
        work += sizes.text_queries * text_flops(recipe.text) / flops  # as so many images
    vectors = sizes.rows + _num_queries(recipe, sizes)
    written = vectors * (recipe.vector_bytes + _NUMBER_BYTES + _ID_BYTES)
    seconds = work * tokens / rates.tokens * rates.num_devices / num_devices
    # On the host: parameters, images that are ready, batches that fill up or are on their way,
    # vectors of some shards, and the official list.
    batches = size * (num_devices // partitions) * (len(recipe.shapes) + _BATCHES)
    ready = _READ_AHEAD * config.dataset.read_threads * config.views.num_views
    rows = max(sizes.positives, math.ceil(sizes.distractors / sizes.tars))
    host = _base(sizes, rates) + recipe.num_parameters * item
    host += (ready + batches) * recipe.view_bytes + _SHARD_COPIES * 4 * rows * image.embedding_dim
    # On a device: parameters, two batches, and a layer's hidden values.
    device = recipe.num_parameters * item / partitions
    device += size * (2 * recipe.view_bytes + hidden_bytes(image, recipe.shapes[-1], item))
    seconds = max(seconds, tars / rates.read + written / rates.write)
    return Stage("embed", tars, written, host, device, seconds)


def _base(sizes: Sizes, rates: Rates) -> float:
    """Bytes of a process that holds the official list of distractors to check the data."""
    return rates.process_bytes + sizes.distractors * _LISTED_ID_BYTES


def exact_seconds(points: list[tuple[int, float]], num_rows: int) -> float:
    """Seconds of a search of `num_rows`: between two points as on a line, and so beyond the last.

    Where noise has the larger search take less time, rows beyond take the mean of its rows.
    """
    rows, seconds = map(list, zip(*points, strict=True))
    slope = (seconds[-1] - seconds[-2]) / (rows[-1] - rows[-2])
    beyond = max(0, num_rows - rows[-1]) * (slope if slope > 0 else seconds[-1] / rows[-1])
    return float(np.interp(num_rows, rows, seconds)) + beyond


def _num_queries(recipe: Recipe, sizes: Sizes) -> int:
    return sizes.image_queries + (0 if recipe.text is None else sizes.text_queries)


def _ranking_bytes(recipe: Recipe, sizes: Sizes) -> int:
    return _num_queries(recipe, sizes) * min(recipe.config.search.k, sizes.rows) * _NUMBER_BYTES


def _exact(recipe: Recipe, sizes: Sizes, rates: Rates, num_devices: int) -> Stage:
    """Image queries read the whole database, and so do texts."""
    search, dim = recipe.config.search, recipe.image.embedding_dim
    k, block, vector = min(search.k, sizes.rows), search.block_rows, recipe.vector_bytes
    read = recipe.passes * (1 if recipe.text is None else 2) * sizes.rows * vector
    seconds = exact_seconds(rates.exact, sizes.rows) * rates.num_devices / num_devices
    seconds *= recipe.passes * _num_queries(recipe, sizes) / QUERIES
    # The list, twice k candidates with room to spare, and both while they are merged.
    lists = 2 * _NUMBER_BYTES * (3 * k + SPARE_PLACES) * sizes.image_queries
    host = _base(sizes, rates) + min(3 * WINDOW_BYTES, sizes.rows * vector) + lists
    # Queries, two stored blocks, one of float32, and the scores of two blocks.
    device = 4 * sizes.image_queries * (dim + 2 * block) + block * (2 * vector + 4 * dim)
    written, seconds = _ranking_bytes(recipe, sizes), max(seconds, read / rates.read)
    return Stage("search exact", read, written, host, device, seconds)


def check_index(recipe: Recipe, databases: Sequence[Sizes]) -> None:
    """Raises UserError if the recipe's ScaNN index cannot be built of some database."""
    if "scann" in recipe.backends:
        for sizes in databases:
            _part_bytes(recipe, sizes)


def _part_bytes(recipe: Recipe, sizes: Sizes) -> int:
    """What building a part of the index takes; no two are in memory at once."""
    search, dim = recipe.config.search, recipe.image.embedding_dim
    parts = make_plan(search.scann, sizes.rows, dim, min(search.k, sizes.rows)).num_parts
    return part_bytes(search.scann, math.ceil(sizes.rows / parts), dim)


def _scann(recipe: Recipe, sizes: Sizes, rates: Rates) -> Stage:
    """The index, half a byte for every code, built in parts on the host; and its search."""
    config, read = recipe.config.search.scann, sizes.rows * recipe.vector_bytes
    codes = sizes.rows * math.ceil(recipe.image.embedding_dim / config.dimensions_per_block) / 2
    written = codes * (2 if config.soar_lambda else 1) + _ranking_bytes(recipe, sizes)
    host = _base(sizes, rates) + _part_bytes(recipe, sizes)
    seconds = max(sizes.rows * rates.scann[0], read / rates.read)
    seconds += recipe.passes * _num_queries(recipe, sizes) * rates.scann[1]
    return Stage("search scann", read, written, host, 0, seconds)


def _metrics(recipe: Recipe, sizes: Sizes, rates: Rates) -> Stage:
    read, queries = _ranking_bytes(recipe, sizes), _num_queries(recipe, sizes)
    device = read / queries * sizes.image_queries / _NUMBER_BYTES * _METRIC_BYTES
    seconds = rates.metrics * queries / QUERIES
    return Stage("metrics", read, 0, rates.process_bytes + read, device, seconds)


def misfits(
    plans: Mapping[str, list[Stage]], is_host: bool, room: tuple[float, float, float]
) -> list[str]:
    """What does not fit into `room`: free bytes of the disk, bytes of the host and of a device.

    Devices that are the host share its memory.
    """
    lines, kinds = [], ("disk", "host memory", "device memory")
    for name, stages in plans.items():
        host = max(stage.host + is_host * stage.device for stage in stages)
        whole = total(stages)
        needs = whole.written, host, 0 if is_host else whole.device
        for what, need, there in zip(kinds, needs, room, strict=True):
            if need > there:
                sizes = f"{format_bytes(need)} of {format_bytes(there)}"
                lines.append(f"{name} does not fit: {what}: {sizes}")
    return lines
