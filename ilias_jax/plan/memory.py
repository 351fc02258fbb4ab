"""Bytes that the stages hold at their peak, from the shapes of their arrays."""

import math

from ilias_jax.plan.recipe import Recipe
from ilias_jax.plan.sizes import Sizes
from ilias_jax.search.exact import SPARE_PLACES, WINDOW_BYTES
from ilias_jax.search.scann_plan import make_plan, part_bytes

_NUMBER_BYTES = 8  # a record number, or an entry of a ranking: int32 and float32
_ID_BYTES = 50  # of an official id such as yfcc100m_0042.tar/<32 hexadecimal digits>
_LISTED_ID_BYTES = 16  # of an id while the official list is read (`benchmarks/check_size.py`)
_READ_AHEAD = 16  # images that wait for every reader thread
_BATCHES = 6  # three on their way, two that wait for the devices, and one being filled
# Copies of a shard's vectors: one being collected, two that wait to be written, and of the one that
# is being put together the batches' rows, their concatenation and the ordered copy.
_SHARD_COPIES = 6
_METRIC_BYTES = 128  # of an entry of a ranking while it is scored, by `metrics.on_device`


def embedding_bytes(recipe: Recipe, sizes: Sizes) -> int:
    """All embedding files: vectors, record numbers and ids of images and texts."""
    row = recipe.dim * recipe.stored_bytes + _NUMBER_BYTES + _ID_BYTES
    return (sizes.num_images + sizes.num_text_queries) * row


def database_bytes(recipe: Recipe, sizes: Sizes) -> int:
    """The database's vectors, which a search reads."""
    return sizes.num_rows * recipe.dim * recipe.stored_bytes


def ranking_bytes(recipe: Recipe, sizes: Sizes) -> int:
    """Both rankings: an index and a score for each of the first k."""
    k = min(recipe.config.search.k, sizes.num_rows)
    return sizes.num_queries * k * _NUMBER_BYTES


def count_bytes(sizes: Sizes) -> int:
    """Counts of positives: query, positive, score, tie's end and rank of each pair, 4 bytes each.

    Every object is taken to have the mean number of positives.
    """
    per_query = sizes.num_positives / sizes.num_text_queries
    return round(sizes.num_queries * per_query) * 20


def index_bytes(recipe: Recipe, sizes: Sizes) -> int:
    """ScaNN's index without the vectors: 4 bits a block of channels, and the row's number."""
    blocks = math.ceil(recipe.dim / recipe.config.search.scann.dimensions_per_block)
    return sizes.num_rows * (math.ceil(blocks / 2) + 4)


def embed_host(recipe: Recipe, sizes: Sizes, num_devices: int) -> int:
    """Parameters, images on their way, some shards' vectors, and the official list of ids."""
    config, lengths = recipe.config, recipe.lengths
    batch = config.embed.batch_size_per_device * data_partitions(recipe, num_devices)
    largest = recipe.image_bytes(lengths[-1])
    read_ahead = _READ_AHEAD * config.dataset.read_threads * config.views.num_views * largest
    waiting = batch * sum(recipe.image_bytes(length) for length in lengths)
    images = read_ahead + waiting + _BATCHES * batch * largest
    shard_rows = max(sizes.num_positives, math.ceil(sizes.num_distractors / sizes.num_tars))
    shards = _SHARD_COPIES * 4 * shard_rows * recipe.dim
    return recipe.parameter_bytes + images + shards + listed_bytes(sizes)


def embed_device(recipe: Recipe, temporary_bytes: float) -> float:
    """Parameters of one device, its part of two batches, and what the program allocates."""
    parameters = recipe.parameter_bytes / recipe.config.mesh.model_partitions
    size = recipe.config.embed.batch_size_per_device
    return parameters + 2 * size * recipe.image_bytes(recipe.lengths[-1]) + temporary_bytes


def search_host(recipe: Recipe, sizes: Sizes) -> int:
    """Three windows of rows, lists and candidates of all queries, and the list of ids."""
    windows = min(3 * WINDOW_BYTES, database_bytes(recipe, sizes))
    k = min(recipe.config.search.k, sizes.num_rows)
    # The list, twice k candidates with room to spare, and both together while they are merged.
    pairs = 2 * (3 * k + SPARE_PLACES) * sizes.num_image_queries
    return windows + _NUMBER_BYTES * pairs + listed_bytes(sizes)


def search_device(recipe: Recipe, sizes: Sizes) -> int:
    """Queries, two stored blocks, one of float32, and the scores of two blocks."""
    search, num_queries = recipe.config.search, sizes.num_image_queries
    blocks = search.block_rows * recipe.dim * (2 * recipe.stored_bytes + 4)
    return 4 * num_queries * recipe.dim + blocks + 2 * 4 * num_queries * search.block_rows


def scann_host(recipe: Recipe, sizes: Sizes) -> int:
    """What building the largest part of the index takes, of which no two are in memory."""
    search = recipe.config.search
    plan = make_plan(search.scann, sizes.num_rows, recipe.dim, search.k)
    rows = math.ceil(sizes.num_rows / plan.num_parts)
    return part_bytes(search.scann, rows, recipe.dim) + listed_bytes(sizes)


def metrics_device(recipe: Recipe, sizes: Sizes) -> int:
    """One ranking with what is computed of it."""
    k = min(recipe.config.search.k, sizes.num_rows)
    return sizes.num_image_queries * k * _METRIC_BYTES


def listed_bytes(sizes: Sizes) -> int:
    """The official list of distractors while a run checks its data against it."""
    return sizes.num_distractors * _LISTED_ID_BYTES


def data_partitions(recipe: Recipe, num_devices: int) -> int:
    """Parts of a batch or block: devices without those that share one copy of the parameters."""
    return num_devices // recipe.config.mesh.model_partitions
