"""Local descriptors of chosen images: through a tower into files, each image once.

The images of a shortlist lie scattered over the shards of the database. What no file has yet of a
shard is extracted into new files beside those that are there, so that a longer shortlist, or that
of another search, costs its new images alone.
"""

import dataclasses
import functools
import hashlib
import itertools
import json
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from ilias_jax.config import BenchmarkConfig
from ilias_jax.dataset.layout import ImageRecord, Shard, follows_exif
from ilias_jax.dataset.reader import IliasDataset
from ilias_jax.embeddings.embedder import Embedder, place_parameters
from ilias_jax.embeddings.extract import boxes_digest, normalized_pixels
from ilias_jax.embeddings.file import (
    Fingerprint,
    canonical_json,
    read_header,
    read_numbers,
    short_hash,
)
from ilias_jax.embeddings.files import EmbeddingFiles
from ilias_jax.embeddings.shards import Named, ShardJob, embed_shards
from ilias_jax.embeddings.sources import split
from ilias_jax.errors import UserError
from ilias_jax.model import Model, Parameters, parameters_sha256
from ilias_jax.models import hub
from ilias_jax.models.custom import Factory
from ilias_jax.models.load import load_model
from ilias_jax.models.registry.registry import resolve as resolve_model
from ilias_jax.preprocessing.batching import Item, bucket_shapes
from ilias_jax.preprocessing.decode import DecodeError, Patches
from ilias_jax.preprocessing.local_patches import jpeg_to_local_patches
from ilias_jax.preprocessing.resize import patch_grid
from ilias_jax.profiling import Timings
from ilias_jax.rerank.descriptors import (
    Descriptors,
    LocalSettings,
    Storage,
    from_rows,
    to_rows,
)
from ilias_jax.rerank.detector import Detector, read_detector, strongest
from ilias_jax.rerank.reranker import LocalReranker

# Raise it when the same image and weights give other descriptors than before.
REVISION = 1
_IMAGES_A_FILE = 256
OWN_MODEL = "own"  # a name of `rerank.model`: that of the run


@dataclasses.dataclass(frozen=True)
class Extractor:
    """What makes descriptors of images.

    Attributes:
        model: its tokens are the descriptors.
        detector: chooses the strongest; None for the norms of the tokens.
        reranker: projects them.
        num_query, num_database: at most so many of an image.
        crop_queries: whether image queries are cut to their boxes.
    """

    model: Model
    detector: Detector | None
    reranker: LocalReranker
    num_query: int
    num_database: int
    crop_queries: bool

    def count(self, is_query: bool) -> int:
        """At most so many descriptors of an image."""
        return self.num_query if is_query else self.num_database

    def storage(self, is_query: bool) -> Storage:
        """How they are stored; database descriptors are rounded, as AMES's are."""
        return (
            "float32" if is_query and self.reranker.storage == "float16" else self.reranker.storage
        )

    def fingerprint(self, is_query: bool) -> dict[str, object]:
        """What a descriptor depends on beside its image."""
        reranker = self.reranker
        arrays = jax.tree.leaves(reranker.parameters)
        facts = {
            "revision": REVISION,
            "count": self.count(is_query),
            "storage": self.storage(is_query),
            "projection": reranker.projection,
            "projection_sha256": parameters_sha256(reranker.parameters) if arrays else None,
            "detector": self.detector.sha256 if self.detector else None,
            "detector_map": self.detector is not None and reranker.takes_detector_map,
            "filter": reranker.usual.filter,
            "crop": is_query and self.crop_queries,
        }
        return {**self.model.image_fingerprint(), "local_descriptors": facts}


def make_extractor(config: BenchmarkConfig, model: Model, reranker: LocalReranker) -> Extractor:
    """What makes a method's descriptors, as the configuration has it.

    Args:
        config: of the run.
        model: the run's own, which is taken where neither method nor configuration names another.
        reranker: the method.

    Raises:
        UserError: a model or detector is missing or wrong, has no tokens, or tokens of another
            length than the method takes.
    """
    options, usual = config.rerank, reranker.usual
    model = _local_model(config, model, usual)
    if model.embed_patches is None:
        raise UserError(
            f"rerank.method={options.method!r} compares local descriptors, and model {model.name} "
            "has none (Model.embed_patches); name one of the table's transformers in "
            "rerank.model.name"
        )
    dim = token_dim(model)
    if reranker.input_dim not in (None, dim):
        raise UserError(
            f"rerank.weights: {options.weights} takes descriptors of {reranker.input_dim} "
            f"channels, and model {model.name} gives {dim}; it belongs to another model"
        )
    return Extractor(
        model,
        read_detector(options.detector, dim) if options.detector else None,
        reranker,
        options.query_descriptors or usual.num_descriptors,
        options.database_descriptors or usual.num_descriptors,
        options.crop_queries,
    )


def _local_model(config: BenchmarkConfig, model: Model, usual: LocalSettings) -> Model:
    """The run's own model, or another one, at the resolution of the descriptors."""
    wanted, resolution = config.rerank.model, config.rerank.resolution
    if wanted.name != OWN_MODEL and (wanted.name or wanted.factory or usual.model):
        name = wanted.name or ("" if wanted.factory else usual.model)
    else:
        if (resolution or usual.resolution) in (0, model.preprocessing.resolution):
            return model
        wanted, name = config.model, config.model.name
        if not name and not wanted.factory:
            own = model.preprocessing.resolution
            raise UserError(
                f"rerank.resolution={resolution}: model {model.name} takes images of {own} pixels "
                f"alone; set rerank.resolution={own}"
            )
    resolution = resolution or usual.resolution
    wanted = dataclasses.replace(wanted, name=name, towers="image", resolution=resolution)
    found = resolve_model(
        wanted, max_scale=1.0, num_buckets=config.embed.num_buckets, bring=hub.bring
    )
    return found.load() if isinstance(found, Factory) else load_model(found)


def token_dim(model: Model) -> int:
    """Channels of a token, without running a model."""
    images = model.preprocessing
    shape = bucket_shapes(images, 1)[-1]
    pixels = jax.ShapeDtypeStruct((1, *shape, images.patch_size**2 * 3), np.float32)
    grid = jax.ShapeDtypeStruct((1, 2), np.int32)
    assert model.embed_patches is not None
    return jax.eval_shape(model.embed_patches, model.parameters, pixels, grid).shape[-1]


@dataclasses.dataclass(frozen=True, eq=False)
class StoredDescriptors:
    """Descriptors of N images in files.

    Attributes:
        files: that hold them.
        rows: [N] int64 row of each image among those of the files.
        count: at most so many descriptors of an image.
        fingerprint: what all of them depend on.
    """

    files: EmbeddingFiles
    rows: np.ndarray
    count: int
    fingerprint: Fingerprint

    @property
    def image_bytes(self) -> int:
        """Bytes of an image's descriptors in the files."""
        return self.files.dim * self.files.dtype.itemsize

    def read(self, images: np.ndarray) -> Descriptors:
        """Those of images [n], numbers in [0, N)."""
        return from_rows(self.files.rows(self.rows[images]), self.count)


def extract_descriptors(
    dataset: IliasDataset,
    embedded: tuple[EmbeddingFiles, Sequence[Shard]],
    wanted: np.ndarray,
    extractor: Extractor,
    mesh: Mesh,
    config: BenchmarkConfig,
    folder: epath.Path,
    timings: Timings,
) -> StoredDescriptors:
    """Extracts descriptors of those wanted images that have none yet.

    Several processes take turns over the new files.

    Args:
        dataset: has the images.
        embedded: embedding files, which say which record each row is, and the shard of each.
        wanted: [N] rising rows of them.
        extractor: of image queries if the first shard is of queries, else of database images.
        mesh: of this process's devices.
        config: of the run.
        folder: receives one folder for every model, detector, projection and choice of settings.
        timings: receives a stage.

    Raises:
        UserError: an image cannot be read any more, or a descriptor is not finite.
    """
    chosen = list(_chosen(*embedded, wanted))
    is_query = chosen[0].split == "image_query"
    fingerprint = extractor.fingerprint(is_query)
    if is_query and extractor.crop_queries:  # mended boxes can leave a shard's digest as it was
        fingerprint["boxes"] = [boxes_digest(dataset, shard) for shard in embedded[1]]
    home = folder / short_hash(fingerprint)
    jobs = [job for shard in chosen for job in _jobs(shard, home, fingerprint)]
    _wait_for_all("descriptors listed")  # or another process would see fewer files missing
    mine = jobs[jax.process_index() :: jax.process_count()]
    with timings.stage(f"extract_descriptors_{chosen[0].split}") as timing:
        timing.skipped += sum(shard.num_wanted for shard in chosen)
        timing.skipped -= sum(job.shard.num_wanted for job in jobs)
        if mine:
            count, storage = extractor.count(is_query), extractor.storage(is_query)
            embedder = _embedder(extractor, count, mesh, config)
            shapes = bucket_shapes(extractor.model.preprocessing, config.embed.num_buckets)
            read = functools.partial(_read_items, dataset, extractor, config)
            encode = functools.partial(to_rows, count=count, storage=storage)
            embed_shards(mine, read, embedder, shapes, encode, timing, "extract descriptors")
    _wait_for_all("descriptors extracted")
    return _open(chosen, home, extractor.count(is_query), fingerprint)


def _wait_for_all(name: str) -> None:
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def _chosen(files: EmbeddingFiles, shards: Sequence[Shard], wanted: np.ndarray) -> Iterator[Shard]:
    """The shards of rising wanted rows, each with its chosen records."""
    starts = list(itertools.accumulate((each.num_rows for each in files.headers), initial=0))
    for part, taken in split(wanted, starts):
        numbers = read_numbers(files.paths[part])[wanted[taken] - starts[part]]
        yield dataclasses.replace(shards[part], chosen=tuple(numbers.tolist()))


def _stem(shard: Shard) -> str:
    return f"{shard.split}-{shard.number:05d}-of-{shard.num_shards:05d}"


def _source(shard: Shard) -> dict[str, object]:
    return {"file": shard.file_name, "num_bytes": shard.num_bytes, "digest": shard.digest}


def _present(shard: Shard, home: epath.Path, fingerprint: Fingerprint) -> list[epath.Path]:
    """The files that hold descriptors of a shard as it is now."""
    whole = canonical_json({**fingerprint, "source": _source(shard)})
    paths = sorted(home.glob(f"{_stem(shard)}-*.safetensors")) if home.exists() else []
    return [path for path in paths if canonical_json(read_header(path).fingerprint) == whole]


def _jobs(shard: Shard, home: epath.Path, fingerprint: Fingerprint) -> Iterator[ShardJob]:
    """New files for the chosen records that are in none."""
    assert shard.chosen is not None
    present = {n for p in _present(shard, home, fingerprint) for n in read_numbers(p).tolist()}
    missing = [number for number in shard.chosen if number not in present]
    for start in range(0, len(missing), _IMAGES_A_FILE):
        numbers = tuple(missing[start : start + _IMAGES_A_FILE])
        name = f"{_stem(shard)}-{hashlib.sha256(json.dumps(numbers).encode()).hexdigest()[:12]}"
        whole = {**fingerprint, "source": _source(shard)}
        part = dataclasses.replace(shard, chosen=numbers)
        yield ShardJob(part, home / f"{name}.safetensors", whole)


def _open(
    chosen: Sequence[Shard], home: epath.Path, count: int, fingerprint: Fingerprint
) -> StoredDescriptors:
    """The files of the chosen records, and the row of each record."""
    paths: list[epath.Path] = []
    rows: list[np.ndarray] = []
    start = 0
    for shard in chosen:
        wanted = np.asarray(shard.chosen, np.int64)
        found = _present(shard, home, fingerprint)
        numbers = [read_numbers(path) for path in found]
        paths += found
        joined = np.concatenate([np.zeros(0, np.int64), *numbers])
        order = np.argsort(joined, kind="stable")
        at = order[np.searchsorted(joined, wanted, sorter=order).clip(max=len(order) - 1)]
        if not np.array_equal(joined[at], wanted):
            raise RuntimeError(f"{home} lacks descriptors of {shard.file_name}")
        rows.append(start + at)
        start += len(joined)
    return StoredDescriptors(EmbeddingFiles(paths), np.concatenate(rows), count, fingerprint)


def _embedder(extractor: Extractor, count: int, mesh: Mesh, config: BenchmarkConfig) -> Embedder:
    detector = extractor.detector.parameters if extractor.detector else None
    parts = (extractor.model.parameters, detector, extractor.reranker.parameters)
    forward = functools.partial(_forward, extractor, count)
    size = config.embed.batch_size_per_device
    return Embedder(forward, place_parameters(parts, mesh), mesh, size, normalize=False)


def _forward(
    extractor: Extractor, count: int, parameters: Parameters, pixels: jax.Array, size: jax.Array
) -> jax.Array:
    """Images as a batch holds them -> [B, n (3 + d)] as `to_rows` takes them."""
    model, reranker = extractor.model, extractor.reranker
    tower, detector, projection = parameters
    pixels = normalized_pixels(model.preprocessing, pixels, size)
    grid = patch_grid(size, model.preprocessing.patch_size)
    assert model.embed_patches is not None
    tokens = model.embed_patches(tower, pixels, grid)
    values, weights = tokens, jnp.linalg.norm(tokens, axis=-1)
    if extractor.detector is not None:
        normalized, weights = extractor.detector(detector, tokens)
        values = normalized if reranker.takes_detector_map else tokens
    values, locations, weights, counts = strongest(values, weights, grid, count)
    values = reranker.project(projection, values)
    real = jnp.arange(count)[None, :, None] < counts[:, None, None]
    places = jnp.concatenate([locations, weights[..., None]], axis=-1)
    found = jnp.concatenate([jnp.where(real, places, -1.0), jnp.where(real, values, 0.0)], axis=-1)
    return found.reshape(len(found), -1)


def _read_items(
    dataset: IliasDataset,
    extractor: Extractor,
    config: BenchmarkConfig,
    shard: Shard,
    named: Named,
) -> Iterator[Item]:
    """The chosen images of a shard; those that were embedded once can be read."""
    crop = extractor.crop_queries and shard.split == "image_query"
    transform = functools.partial(_prepare, extractor, crop, follows_exif(shard.split))
    for record, prepared in dataset.read(shard, transform, config.dataset.read_threads):
        if isinstance(prepared, DecodeError):
            raise UserError(f"{shard.file_name}: {record.image_id} cannot be decoded: {prepared}")
        yield len(named.ids), prepared
        named.ids.append(record.image_id)
        named.numbers.append(record.number)
    dataset.check_unchanged(shard)


def _prepare(
    extractor: Extractor, crop: bool, exif_transpose: bool, record: ImageRecord
) -> tuple[ImageRecord, Patches | DecodeError]:
    """Decodes one image, on a reader thread; hands an error on as a value."""
    preprocessing, rule = extractor.model.preprocessing, extractor.reranker.usual.filter
    boxes = record.boxes if crop else ()
    try:
        return record, jpeg_to_local_patches(
            record.jpeg, boxes, preprocessing, rule, exif_transpose
        )
    except DecodeError as error:
        return record, error
