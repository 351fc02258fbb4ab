"""Extraction: a dataset's shards and texts through a model into embedding files.

The dataset's reader, the preprocessing, the model and the embedder meet here and know nothing of
each other.
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
import logging
import operator
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh

from ilias_jax.config import BenchmarkConfig, EmbedConfig, ViewsConfig
from ilias_jax.dataset.layout import IMAGE_SPLITS, ImageRecord, Shard, Split, follows_exif
from ilias_jax.dataset.reader import IliasDataset
from ilias_jax.embeddings import file
from ilias_jax.embeddings.embedder import Embedder, embed_tokens, place_parameters
from ilias_jax.embeddings.files import EmbeddingFiles
from ilias_jax.embeddings.shards import Named, ShardJob, embed_shards, is_done
from ilias_jax.errors import UserError
from ilias_jax.files import lock_unless_done
from ilias_jax.model import Model, Parameters, Preprocessing
from ilias_jax.preprocessing.batching import Item, PreparedImage, bucket_shapes
from ilias_jax.preprocessing.decode import DecodeError
from ilias_jax.preprocessing.resize import (
    canvas_to_images,
    canvas_to_patches,
    normalize_images,
    normalize_patches,
    patch_grid,
)
from ilias_jax.preprocessing.views import BoxError, jpeg_to_views
from ilias_jax.profiling import StageTime, Timings

# Raise it when the same image and weights give another embedding than before.
REVISION = 3


@dataclasses.dataclass(frozen=True)
class EmbeddedDataset:
    """Embedding files by split with the shard of each; texts are None without a text tower."""

    images: dict[Split, EmbeddingFiles]
    shards: dict[Split, list[Shard]]
    texts: EmbeddingFiles | None

    @functools.cached_property
    def database(self) -> EmbeddingFiles:
        """Positives, then distractors."""
        return EmbeddingFiles([*self.images["positive"].paths, *self.images["distractor"].paths])

    @functools.cached_property
    def database_shards(self) -> list[Shard]:
        """The shards behind `database`'s files."""
        return [*self.shards["positive"], *self.shards["distractor"]]


def embed_dataset(
    dataset: IliasDataset,
    model: Model,
    mesh: Mesh,
    config: BenchmarkConfig,
    folder: epath.Path,
    timings: Timings,
) -> EmbeddedDataset:
    """Embeds all images and texts that have no embedding yet.

    Several processes take turns over the shards; each writes its own.

    Args:
        dataset: its images and texts.
        model: loaded.
        mesh: of this process's devices.
        config: of the run.
        folder: receives one folder for every model, preprocessing and choice of views.
        timings: receives a stage for the images and one for the texts.

    Raises:
        UserError: the model takes no views as large as those of the configuration.
    """
    preprocessing, views, embed = model.preprocessing, config.views, config.embed
    _check_scale(model, views)
    listed = {} if dataset.selected is None else {"sha256": dataset.selected.digest}
    fingerprint = {
        **model.image_fingerprint(),
        "revision": REVISION,
        # Which device resizes an image may change a level in a pixel of some ten thousand.
        "canvas": canvas_side(embed, preprocessing),
        "storage_dtype": embed.storage_dtype,
        "subset": {"name": dataset.subset, **listed},
    }
    parameters = place_parameters(model.parameters, mesh)
    jobs = {
        split: _jobs(dataset, split, views.of(split), folder, fingerprint) for split in IMAGE_SPLITS
    }
    forward = functools.partial(images_forward, model)
    options = compiler_options(preprocessing)
    embedder = Embedder(forward, parameters, mesh, embed.batch_size_per_device, options)
    read = functools.partial(read_items, dataset, preprocessing, config)
    # By the views that there are, not by the model's bound: the shapes decide the last bits.
    shapes = bucket_shapes(preprocessing, embed.num_buckets, views.max_scale)
    turn = slice(jax.process_index(), None, jax.process_count())
    mine = [job for split in IMAGE_SPLITS for job in jobs[split][turn]]
    with timings.stage("embed_images") as timing:
        encode = operator.methodcaller("astype", embed.storage_dtype)
        embed_shards(mine, read, embedder, shapes, encode, timing, "embed images")
    texts = None
    if model.embed_texts is not None and dataset.has_texts:
        with timings.stage("embed_text_query") as timing:
            texts = _embed_texts(
                dataset, model, parameters, mesh, embed, folder, fingerprint, timing
            )
    return EmbeddedDataset(
        {split: EmbeddingFiles([job.path for job in jobs[split]]) for split in IMAGE_SPLITS},
        {split: [job.shard for job in jobs[split]] for split in IMAGE_SPLITS},
        texts,
    )


def _check_scale(model: Model, views: ViewsConfig) -> None:
    bound = model.preprocessing.max_scale
    if views.max_scale > bound:
        raise UserError(
            f"views.scales={views.scales}: the model {model.name} takes images up to {bound:g} "
            f"times its resolution; build it with Preprocessing(max_scale={views.max_scale:g})"
        )


def _jobs(
    dataset: IliasDataset,
    split: Split,
    views: ViewsConfig,
    folder: epath.Path,
    fingerprint: file.Fingerprint,
) -> list[ShardJob]:
    """The shards of a split with their files; images without views have the same files always."""
    if views != ViewsConfig():
        fingerprint = {**fingerprint, "views": dataclasses.asdict(views)}
    home = folder / file.short_hash(fingerprint)
    uses_boxes = views.crop_to_box or views.mask_outside_box
    jobs = []
    for shard in dataset.shards(split):
        name = f"{shard.split}-{shard.number:05d}-of-{shard.num_shards:05d}.safetensors"
        source: dict[str, object] = {
            "file": shard.file_name,
            "num_bytes": shard.num_bytes,
            "num_records": shard.num_records,
            "digest": shard.digest,
        }
        if uses_boxes:
            source["boxes"] = boxes_digest(dataset, shard)
        whole = {**fingerprint, "source": source}
        jobs.append(ShardJob(shard, home / name, whole, views.num_views))
    return jobs


def boxes_digest(dataset: IliasDataset, shard: Shard) -> str:
    """sha256 of a shard's boxes: mended boxes can leave the shard's own digest as it was."""
    boxes = list(dataset.read(shard, lambda record: (record.image_id, record.boxes), 1))
    return hashlib.sha256(json.dumps(boxes).encode()).hexdigest()


def compiler_options(preprocessing: Preprocessing) -> dict[str, Any]:
    """XLA's for a model's images: on CPUs a CNN's shifted sums want the widest registers."""
    on_cpu = jax.local_devices()[0].platform == "cpu"
    return {"xla_cpu_prefer_vector_width": 512} if preprocessing.whole and on_cpu else {}


def images_forward(model: Model, parameters: Parameters, *arrays: jax.Array) -> jax.Array:
    """Images as a batch holds them (`Batch.arrays`) -> [B, D] unnormalised."""
    preprocessing = model.preprocessing
    if len(arrays) == 4:
        pixels, size = _resized(preprocessing, *arrays)
    else:
        pixels, size = arrays
    pixels = normalized_pixels(preprocessing, pixels, size)
    return model.embed_images(parameters, pixels, patch_grid(size, preprocessing.patch_size))


def normalized_pixels(
    preprocessing: Preprocessing, pixels: jax.Array, size: jax.Array
) -> jax.Array:
    """Pixels as the model takes them, of those that the host has normalised or of levels."""
    if pixels.dtype != "uint8":
        return pixels
    mean, std = preprocessing.mean, preprocessing.std
    if preprocessing.whole:
        return normalize_images(pixels, size, mean, std)
    return normalize_patches(pixels, size, preprocessing.patch_size, mean, std)


def _resized(
    preprocessing: Preprocessing,
    canvas: jax.Array,
    source: jax.Array,
    size: jax.Array,
    shape: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    if preprocessing.whole:
        _, height, width, _ = shape.shape
        return canvas_to_images(canvas, source, size, (height, width)), size
    side, patch_size = preprocessing.side_at(1.0), preprocessing.patch_size
    return canvas_to_patches(canvas, source, size, shape.shape[1], side, patch_size), size


def canvas_side(config: EmbedConfig, preprocessing: Preprocessing) -> int:
    """Side of the canvas, which images resized on the host fit as well; 0 for none."""
    return max(config.canvas, preprocessing.resolution) if config.canvas else 0


def _prepare(
    preprocessing: Preprocessing,
    views: ViewsConfig,
    canvas: int,
    exif_transpose: bool,
    record: ImageRecord,
) -> tuple[ImageRecord, Sequence[PreparedImage] | DecodeError]:
    """Decodes the views of one image, on a reader thread; hands an error on as a value."""
    jpeg, boxes = record.jpeg, record.boxes
    try:
        return record, jpeg_to_views(jpeg, boxes, preprocessing, views, exif_transpose, canvas)
    except DecodeError as error:
        return record, error


def read_items(
    dataset: IliasDataset,
    preprocessing: Preprocessing,
    config: BenchmarkConfig,
    shard: Shard,
    named: Named,
) -> Iterator[Item]:
    """Reads a shard and notes every image, embedded or rejected, in `named`.

    Raises:
        UserError: a core image cannot be decoded, or the shard was replaced meanwhile.
    """
    views = config.views.of(shard.split)
    canvas, exif_transpose = canvas_side(config.embed, preprocessing), follows_exif(shard.split)
    transform = functools.partial(_prepare, preprocessing, views, canvas, exif_transpose)
    for record, prepared in dataset.read(shard, transform, config.dataset.read_threads):
        if isinstance(prepared, DecodeError):
            _reject(shard, record, prepared, named)
            continue
        yield from enumerate(prepared, len(named.ids) * views.num_views)
        named.ids.append(record.image_id)
        named.numbers.append(record.number)
    dataset.check_unchanged(shard)


def _reject(shard: Shard, record: ImageRecord, error: DecodeError, named: Named) -> None:
    """Notes a distractor that cannot be decoded; a core image must be there."""
    if shard.split != "distractor":
        what = "has boxes that" if isinstance(error, BoxError) else "cannot be decoded:"
        raise UserError(f"{shard.file_name}: {record.image_id} {what} {error}")
    logging.warning("%s: %s is rejected: %s", shard.file_name, record.image_id, error)
    named.rejected.append((record.image_id, str(error)))


def _embed_texts(
    dataset: IliasDataset,
    model: Model,
    parameters: Parameters,
    mesh: Mesh,
    embed: EmbedConfig,
    folder: epath.Path,
    fingerprint: file.Fingerprint,
    timing: StageTime,
) -> EmbeddingFiles:
    """Embeds all text queries into one file; the first process does it."""
    assert model.embed_texts is not None and model.tokenize is not None
    path = folder / file.short_hash(fingerprint) / "text_query.safetensors"
    queries = dataset.text_queries()
    content = json.dumps([[query.query_id, query.text] for query in queries])
    source = {"sha256": hashlib.sha256(content.encode()).hexdigest()}
    whole = {**fingerprint, "text": dict(model.text_fingerprint), "source": source}
    files = EmbeddingFiles([path])
    if jax.process_index() != 0:
        return files
    lock = lock_unless_done(path, lambda: is_done(path, whole))
    if lock is None:
        timing.skipped += len(queries)
        return files
    with contextlib.closing(lock):
        ids = tuple(query.query_id for query in queries)
        tokens, size = model.tokenize([q.text for q in queries]), embed.batch_size_per_device
        vectors = embed_tokens(model.embed_texts, parameters, mesh, size, tokens, ids)
        stored = vectors.astype(embed.storage_dtype)
        file.write(path, file.Embeddings(ids, stored, np.arange(len(ids)), whole))
    timing.items += len(queries)
    return files
