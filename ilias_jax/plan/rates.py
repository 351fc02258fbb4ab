"""What this machine does in a second: every stage of a run, really run for a short while."""

import dataclasses
import os
import pathlib
import resource
import sys
import tempfile

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh

from ilias_jax.config import DatasetConfig, WorldConfig
from ilias_jax.dataset.convert import convert
from ilias_jax.dataset.ground_truth import GroundTruth
from ilias_jax.dataset.layout import MINI_LIST, OFFICIAL_CORE, OFFICIAL_DISTRACTORS
from ilias_jax.dataset.reader import open_dataset
from ilias_jax.dataset.synthetic.generate import generate_configured
from ilias_jax.embeddings import file
from ilias_jax.embeddings.extract import embed_dataset
from ilias_jax.embeddings.files import EmbeddingFiles
from ilias_jax.mesh import num_data_partitions
from ilias_jax.metrics import evaluate
from ilias_jax.models.dual_encoder import DualEncoderConfig
from ilias_jax.models.load import tower_model
from ilias_jax.models.parameters import random_parameters
from ilias_jax.plan.predict import QUERIES, Rates, Recipe
from ilias_jax.profiling import Timings
from ilias_jax.search.exact import ExactSearch
from ilias_jax.search.filter import choose_precision
from ilias_jax.search.ranking import Ranking
from ilias_jax.search.scann import MIN_ROWS, ScannSearch

# Pictures that a CPU draws, and that it embeds at least; operations that it embeds at most.
_PICTURES, _LEAST_PICTURES, _CPU_FLOPS = 1_000, 4, 2e12
_EXACT_ROWS, _SCANN_ROWS = 160, 50  # as many as a large database has them searched in the same way
_FILE_BYTES = 2**28


def measure(recipe: Recipe, mesh: Mesh, folder: pathlib.Path) -> Rates:
    """Runs every stage on `mesh` with the recipe's sizes and less data.

    `folder` takes what the stages read and write: its disk is measured, and nothing is left in it.
    """
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    timings, exact, scann = Timings(), [], (0.0, 0.0)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".plan-") as temporary:
        home = pathlib.Path(temporary)
        _run_disk(home / "file", timings)
        note = _run_extraction(recipe, mesh, home, timings)
        tars = sum(path.stat().st_size for path in (home / "world" / "yfcc100m").iterdir())
        if "exact" in recipe.backends:
            exact = _run_exact(recipe, mesh, home, timings)
        if "scann" in recipe.backends:
            scann = _run_scann(recipe, home, timings)
    _run_metrics(recipe, timings)
    seconds = {name: stage.steady_s for name, stage in timings.stages.items()}
    drawn = timings.stages["generate_world"].items
    return Rates(
        num_devices=mesh.size,
        num_cpus=os.cpu_count() or 1,
        process_bytes=peak * (1 if sys.platform == "darwin" else 1024),
        pictures=drawn / seconds["generate_world"],
        picture_bytes=tars / drawn,
        convert=tars / seconds["convert"],
        tokens=timings.stages["embed_images"].computed_tokens / seconds["embed_images"],
        write=_FILE_BYTES / seconds["write"],
        read=_FILE_BYTES / seconds["read"],
        exact=exact,
        scann=scann,
        metrics=seconds["metrics"],
        note=note,
    )


def _run_disk(path: pathlib.Path, timings: Timings) -> None:
    """Writes a file and reads it, not from memory where the system can be asked for that."""
    content = os.urandom(_FILE_BYTES)
    with timings.stage("write"), path.open("wb", buffering=0) as file:
        file.write(content)
        os.fsync(file.fileno())
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    with timings.stage("read"):
        path.read_bytes()


def _run_extraction(recipe: Recipe, mesh: Mesh, home: pathlib.Path, timings: Timings) -> str:
    """Draws a world, converts it again, and embeds some of it with small random parameters.

    On a CPU as many pictures as it embeds in a minute or so, in batches that they fill.
    """
    config, drawn, count = recipe.config, 4 * _PICTURES, 4 * _PICTURES
    size = config.embed.batch_size_per_device
    if jax.default_backend() == "cpu":
        drawn = _PICTURES
        count = max(_LEAST_PICTURES, min(drawn, int(_CPU_FLOPS / recipe.photo[1])))
        size = max(1, min(size, count // (8 * num_data_partitions(mesh))))
    processes = min(config.dataset.read_threads, os.cpu_count() or 1)
    world = WorldConfig(0, 1, 1, 1, drawn - 2, num_tars=processes)
    dataset = DatasetConfig("plan", str(home / "world"), "mini", processes, world=world)
    generate_configured(dataset, timings)
    with timings.stage("convert"):
        convert(home / "world", home / "again", num_processes=1)
    ids = open_dataset(dataclasses.replace(dataset, subset="full")).ids("distractor")
    chosen = home / "world" / "image_ids" / MINI_LIST
    chosen.write_text("".join(f"{name}\n" for name in ids[: count - 2]))
    preprocessing, towers = recipe.preprocessing, DualEncoderConfig(recipe.image)
    name, dtype, attention = config.model.name, config.model.dtype, config.model.attention
    resolution, scale = preprocessing.resolution, preprocessing.max_scale
    values = preprocessing.mean, preprocessing.std
    model = tower_model(
        name,
        towers,
        random_parameters(towers),
        None,
        resolution,
        dtype,
        {},
        scale,
        attention,
        values,
    )
    embed = dataclasses.replace(config.embed, batch_size_per_device=size)
    config, folder = dataclasses.replace(config, embed=embed), epath.Path(home / "embeddings")
    embed_dataset(open_dataset(dataset), model, mesh, config, folder, timings)
    return f"{count:,} pictures of a world, {size} a device at a time"


def _vectors(recipe: Recipe, home: pathlib.Path, num_rows: int, name: str) -> epath.Path:
    dim, dtype = recipe.image.embedding_dim, recipe.config.embed.storage_dtype
    rows = np.random.default_rng(list(name.encode())).standard_normal((num_rows, dim), np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    ids, path = tuple(map(str, range(num_rows))), epath.Path(home / name)
    content = file.Embeddings(ids, rows.astype(dtype), np.arange(num_rows), {})
    file.write(path, content)
    return path


def _run_exact(
    recipe: Recipe, mesh: Mesh, home: pathlib.Path, timings: Timings
) -> list[tuple[int, float]]:
    """(rows, seconds) of a small database, a large one, and one three times as large."""
    search, dim = recipe.config.search, recipe.image.embedding_dim
    shape = (QUERIES, OFFICIAL_DISTRACTORS["full"], dim)
    backend = ExactSearch(mesh, search.block_rows, choose_precision(mesh, search.filter, shape))
    queries = EmbeddingFiles([_vectors(recipe, home, QUERIES, "queries")]).vectors()
    large = max(search.block_rows * num_data_partitions(mesh), _EXACT_ROWS * search.k)
    small = _vectors(recipe, home, large // 32, "small")
    parts, points = [_vectors(recipe, home, large, name) for name in "abc"], []
    for paths in ([small], parts[:1], parts):
        database = EmbeddingFiles(paths)
        with timings.stage(f"exact_{database.num_rows()}") as timing:
            backend.open(database, search.k).search(queries)
        points.append((database.num_rows(), timing.steady_s))
    return points


def _run_scann(recipe: Recipe, home: pathlib.Path, timings: Timings) -> tuple[float, float]:
    """Seconds of a row that is indexed and of a query that visits as many as ever."""
    search = recipe.config.search
    config = dataclasses.replace(search.scann, num_leaves=0, num_leaves_to_search=0)
    num_rows = max(MIN_ROWS, _SCANN_ROWS * search.k)
    database = EmbeddingFiles([_vectors(recipe, home, num_rows, "scann")])
    queries = EmbeddingFiles([_vectors(recipe, home, QUERIES, "queries")]).vectors()
    with timings.stage("open_scann") as opened:
        index = ScannSearch(config).open(database, search.k)
    with timings.stage("search_scann") as searched:
        index.search(queries)
    return opened.steady_s / num_rows, searched.steady_s / QUERIES


def _run_metrics(recipe: Recipe, timings: Timings) -> None:
    objects, count = OFFICIAL_CORE["text_query"], OFFICIAL_CORE["positive"]
    k = recipe.config.search.k
    names = [f"object_{number:04d}" for number in range(objects)]
    queries, positives = (
        tuple(f"{names[i % objects]}/{kind}{i}.jpg" for i in range(number))
        for kind, number in (("query/Q", QUERIES), ("pos/P", count))
    )
    taxonomy = {name: (f"c{i % 8}", f"m{i % 48}", "fine") for i, name in enumerate(names)}
    scale, clutter = np.linspace(0, 1, count), np.arange(count, dtype=np.int32) % 70
    truth = GroundTruth(queries, (), positives, scale, clutter, taxonomy)
    rows = np.tile(np.arange(count + k, dtype=np.int32), (QUERIES, 1))
    rows = np.random.default_rng(0).permuted(rows, axis=1)[:, :k].copy()
    ranking = Ranking(queries, rows, np.zeros(rows.shape, np.float32))
    with timings.stage("metrics"):
        evaluate(ranking, truth, k, count + k, **dataclasses.asdict(recipe.config.metrics))
