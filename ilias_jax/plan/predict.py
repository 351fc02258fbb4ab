"""From constants and sizes to bytes, disk, memory and seconds of every stage."""

import math

from ilias_jax.plan import memory, scann_work
from ilias_jax.plan.constants import Constants
from ilias_jax.plan.recipe import Recipe
from ilias_jax.plan.sizes import Sizes
from ilias_jax.plan.stages import Assumptions, Stage, check_devices
from ilias_jax.plan.tokens import PHOTO_ASPECTS, WORLD_ASPECTS, num_batches


def predict(
    recipe: Recipe, sizes: Sizes, constants: Constants, assumed: Assumptions
) -> list[Stage]:
    """All stages of a run over one database, in their order.

    Raises:
        UserError: a number of devices that no run can have.
    """
    check_devices(assumed.num_devices, recipe.config.mesh.model_partitions)
    return [
        fetch(sizes, constants, assumed, recipe.config.dataset.read_threads),
        convert(sizes, constants),
        embed(recipe, sizes, constants, assumed),
        *search(recipe, sizes, constants, assumed),
        scann(recipe, sizes, constants),
        metrics(recipe, sizes, constants),
    ]


def tar_bytes(sizes: Sizes, constants: Constants) -> float:
    """All images in their tars."""
    each = constants.world_bytes if sizes.image_bytes is None else sizes.image_bytes
    return sizes.num_images * each


def fetch(sizes: Sizes, constants: Constants, assumed: Assumptions, num_processes: int) -> Stage:
    """The download, or the drawing of the miniature world by so many processes."""
    count = tar_bytes(sizes, constants)
    if sizes.is_generated:
        processes = min(num_processes, constants.num_cpus)
        seconds = sizes.num_images / (constants.world_draws * processes)
        host = constants.process_bytes * (1 + processes)
        return Stage("generate", 0, count, count, host, 0, seconds)
    seconds = max(count / assumed.network, count / constants.disk_write)
    return Stage("download", count, count, count, constants.process_bytes, 0, seconds)


def convert(sizes: Sizes, constants: Constants) -> Stage:
    """Tars to shards, a process for every core; a shard is as large as its tar."""
    count, processes = tar_bytes(sizes, constants), min(sizes.num_tars, constants.num_cpus)
    seconds = max(
        count / (constants.convert * processes),
        count / constants.disk_read + count / constants.disk_write,
    )
    host = constants.process_bytes * (1 + processes)
    return Stage("convert", count, count, count, host, 0, seconds)


def embed(recipe: Recipe, sizes: Sizes, constants: Constants, assumed: Assumptions) -> Stage:
    """Images and texts through the model.

    On accelerators the host prepares images while the devices work; on CPU both share the cores.
    """
    device = embed_device_seconds(recipe, sizes, constants, assumed)
    reads = constants.world_reads if sizes.is_generated else constants.photo_reads
    host = sizes.num_images / reads
    work = device + host if constants.backend == "cpu" else max(device, host)
    read, written = tar_bytes(sizes, constants), memory.embedding_bytes(recipe, sizes)
    disk = read / constants.disk_read + written / constants.disk_write
    return Stage(
        "embed",
        read,
        written,
        written,
        constants.compiled_bytes + memory.embed_host(recipe, sizes, assumed.num_devices),
        memory.embed_device(recipe, constants.batch_temporary_bytes),
        max(work, disk),
    )


def embed_device_seconds(
    recipe: Recipe, sizes: Sizes, constants: Constants, assumed: Assumptions
) -> float:
    """Seconds that the devices compute; each length ends with a batch that is not full."""
    config = recipe.config
    partitions = memory.data_partitions(recipe, assumed.num_devices)
    size = config.embed.batch_size_per_device * partitions
    num_images = sizes.num_images
    aspects = WORLD_ASPECTS if sizes.is_generated else PHOTO_ASPECTS
    images = math.fsum(
        num_batches(num_images, share, size, config.views.num_views)
        * constants.batch_seconds[length]
        for length, share in recipe.shares(aspects).items()
    )
    rate = constants.text_flops_per_second * assumed.num_devices / constants.num_devices
    return images + sizes.num_text_queries * recipe.text_flops / rate


def search(
    recipe: Recipe, sizes: Sizes, constants: Constants, assumed: Assumptions
) -> tuple[Stage, Stage]:
    """Exact search with lists and without, each kind of query in a pass of its own."""
    config = recipe.config
    partitions = memory.data_partitions(recipe, assumed.num_devices)
    block = config.search.block_rows * partitions
    rows = math.ceil(sizes.num_rows / block) * block
    speedup = assumed.num_devices / constants.num_devices
    passes = 2 if config.rerank.query_expansion else 1
    queries = (sizes.num_image_queries, sizes.num_text_queries)
    read = len(queries) * passes * memory.database_bytes(recipe, sizes)
    ranking = passes * math.fsum(constants.search.seconds(rows, q, speedup) for q in queries)
    product = passes * rows * sizes.num_queries * constants.product / speedup
    host = constants.compiled_bytes + memory.search_host(recipe, sizes)
    stages = []
    for name, written, seconds, with_lists in (
        ("search exact", memory.ranking_bytes(recipe, sizes), ranking, True),
        ("  score only", memory.count_bytes(sizes), product * assumed.score_only, False),
    ):
        device = memory.search_device(recipe, sizes)
        seconds = max(seconds, read / constants.disk_read)
        used = config.search.backend == "exact" or config.search.measure_ann_recall
        in_run = used and with_lists
        stages.append(Stage(name, read, written, written, host, device, seconds, in_run))
    return stages[0], stages[1]


def scann(recipe: Recipe, sizes: Sizes, constants: Constants) -> Stage:
    """Building ScaNN's index and searching it, on the host."""
    search = recipe.config.search
    build = scann_work.build_work(recipe, sizes.num_rows) * constants.scann_build
    passes = 2 if recipe.config.rerank.query_expansion else 1
    work = sizes.num_queries * scann_work.search_work(recipe, sizes.num_rows)
    read = memory.database_bytes(recipe, sizes)
    seconds = max(build, read / constants.disk_read) + passes * work * constants.scann_search
    written = memory.ranking_bytes(recipe, sizes)
    host = constants.compiled_bytes + memory.scann_host(recipe, sizes)
    in_run = search.backend == "scann" or search.measure_ann_recall
    return Stage("search scann", read, written, written, host, 0, seconds, in_run)


def metrics(recipe: Recipe, sizes: Sizes, constants: Constants) -> Stage:
    """All scores and intervals of both rankings."""
    queries = (sizes.num_image_queries, sizes.num_text_queries)
    seconds = math.fsum(constants.metrics.seconds(count) for count in queries)
    ranking = memory.ranking_bytes(recipe, sizes)
    host = constants.compiled_bytes + ranking
    return Stage("metrics", ranking, 0, 0, host, memory.metrics_device(recipe, sizes), seconds)
