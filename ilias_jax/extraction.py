"""Extraction: a dataset's shards and texts through a model into embedding files.

This is where the stages meet: the reader's records, the host's and the device's pixels, the model
and the embedder know nothing of each other.
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
import logging
from collections.abc import Iterator

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh

from ilias_jax import embeddings as files
from ilias_jax.batching import Item, PatchItem, PictureItem, bucket_lengths
from ilias_jax.claims import claim_unless_done
from ilias_jax.config import BenchmarkConfig, EmbedConfig, ViewsConfig
from ilias_jax.dataset.reader import IliasDataset
from ilias_jax.embed import (
    Embedder,
    Named,
    ShardJob,
    embed_shards,
    embed_tokens,
    is_done,
    place_parameters,
)
from ilias_jax.errors import UserError
from ilias_jax.model import Model, Parameters, Preprocessing
from ilias_jax.pixels.device import normalize_patches, patch_grid
from ilias_jax.pixels.host import DecodeError, Patches, Picture
from ilias_jax.pixels.resize import canvas_to_patches
from ilias_jax.pixels.views import BoxError, jpeg_to_views
from ilias_jax.records import IMAGE_SPLITS, ImageRecord, Shard, Split, follows_exif
from ilias_jax.timings import Timings

# Raise it when the same image and weights give another embedding than before.
REVISION = 3


@dataclasses.dataclass(frozen=True)
class EmbeddedDataset:
    """Where the embeddings of a dataset are.

    Attributes:
        images: by split, the files in the order of the shards.
        shards: by split, the shard of every file.
        texts: the file of the text queries, None for a model without text tower.
    """

    images: dict[Split, files.EmbeddingFiles]
    shards: dict[Split, list[Shard]]
    texts: files.EmbeddingFiles | None

    @functools.cached_property
    def database(self) -> files.EmbeddingFiles:
        """Positives, then distractors."""
        return files.EmbeddingFiles(
            [*self.images["positive"].paths, *self.images["distractor"].paths]
        )

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
        dataset: what to embed.
        model: with what.
        mesh: of this process's devices.
        config: of the run.
        folder: receives one folder for every model, preprocessing and choice of views.
        timings: receives one stage a split.

    Raises:
        UserError: the model takes no views as large as those of the configuration.
    """
    _check_scale(model, config.views)
    fingerprint = {
        **model.image_fingerprint(),
        "revision": REVISION,
        # Which device resizes a picture may change a level in a pixel of some ten thousand.
        "canvas": canvas_side(config.embed, model.preprocessing),
        "storage_dtype": config.embed.storage_dtype,
        "subset": _describe_subset(dataset),
    }
    parameters = place_parameters(model.parameters, mesh)
    how, views, embed = model.preprocessing, config.views, config.embed
    jobs = {
        split: _jobs(dataset, split, views.of(split), folder, fingerprint) for split in IMAGE_SPLITS
    }
    forward = functools.partial(images_forward, model)
    embedder = Embedder(forward, parameters, mesh, embed.batch_size_per_device)
    read = functools.partial(read_items, dataset, how, config)
    # By the views that there are, not by the model's bound: the lengths decide the last bits.
    lengths = bucket_lengths(how, embed.num_buckets, views.max_scale)
    turn = slice(jax.process_index(), None, jax.process_count())
    mine = [job for split in IMAGE_SPLITS for job in jobs[split][turn]]
    with timings.stage("embed_images") as timing:
        embed_shards(mine, read, embedder, lengths, embed.storage_dtype, timing, "embed images")
    texts = None
    if model.embed_texts is not None and dataset.has_texts:
        home = folder / files.short_hash(fingerprint)
        texts = _embed_texts(dataset, model, parameters, mesh, config, home, fingerprint, timings)
    return EmbeddedDataset(
        {split: files.EmbeddingFiles([job.path for job in jobs[split]]) for split in IMAGE_SPLITS},
        {split: [job.shard for job in jobs[split]] for split in IMAGE_SPLITS},
        texts,
    )


def _describe_subset(dataset: IliasDataset) -> dict[str, str]:
    """The subset and, if it is a list, what is on it."""
    if dataset.selected is None:
        return {"name": dataset.subset}
    return {"name": dataset.subset, "sha256": dataset.selected.digest}


def _check_scale(model: Model, views: ViewsConfig) -> None:
    """Raises UserError if a view is larger than the model's tower was built for."""
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
    fingerprint: files.Fingerprint,
) -> list[ShardJob]:
    """The shards of a split with their files; images without views have the same files always."""
    if views != ViewsConfig():
        fingerprint = {**fingerprint, "views": dataclasses.asdict(views)}
    home = folder / files.short_hash(fingerprint)
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
            source["boxes"] = _boxes_digest(dataset, shard)
        whole = {**fingerprint, "source": source}
        jobs.append(ShardJob(shard, home / name, whole, views.num_views))
    return jobs


def _boxes_digest(dataset: IliasDataset, shard: Shard) -> str:
    """sha256 of a shard's boxes: mended boxes can leave the shard's own digest as it was."""
    boxes = list(dataset.read(shard, lambda record: (record.image_id, record.boxes), 1))
    return hashlib.sha256(json.dumps(boxes).encode()).hexdigest()


def images_forward(model: Model, parameters: Parameters, *arrays: jax.Array) -> jax.Array:
    """Images as a batch holds them -> [B, D] unnormalised.

    Args:
        model: with its preprocessing.
        parameters: of the model.
        arrays: patches [B, T, C] uint8, or float32 normalised, and sizes [B, 2]; or pictures as
            `PictureItem.assemble` gives them.
    """
    how = model.preprocessing
    if len(arrays) == 4:
        canvas, source, size, tokens = arrays
        side = how.side_at(1.0)
        patches = canvas_to_patches(canvas, source, size, tokens.shape[1], side, how.patch_size)
    else:
        patches, size = arrays
    pixels = patches
    if patches.dtype == "uint8":
        pixels = normalize_patches(patches, size, how.patch_size, how.mean, how.std)
    return model.embed_images(parameters, pixels, patch_grid(size, how.patch_size))


def canvas_side(config: EmbedConfig, how: Preprocessing) -> int:
    """Side of the canvas, which pictures resized on the host fit as well; 0 for none."""
    return max(config.canvas, how.resolution) if config.canvas else 0


def _prepare(
    how: Preprocessing, views: ViewsConfig, side: int, exif_transpose: bool, record: ImageRecord
) -> tuple[ImageRecord, list[Patches | Picture] | DecodeError]:
    """Decodes the views of one image, on a reader thread; hands an error on as a value."""
    try:
        return record, jpeg_to_views(record.jpeg, record.boxes, how, views, exif_transpose, side)
    except DecodeError as error:
        return record, error


def to_item(row: int, view: Patches | Picture, how: Preprocessing, side: int) -> Item:
    """A view on its way to a batch."""
    if isinstance(view, Patches):
        return PatchItem(row, view.pixels, view.size)
    rows, columns = (-(-length // how.patch_size) for length in view.size)
    return PictureItem(row, view.pixels, view.size, rows * columns, side)


def read_items(
    dataset: IliasDataset,
    how: Preprocessing,
    config: BenchmarkConfig,
    shard: Shard,
    named: Named,
) -> Iterator[Item]:
    """Reads a shard and notes every image, embedded or rejected, in `named`.

    Raises:
        UserError: a core image cannot be decoded, or the shard was replaced meanwhile.
    """
    views = config.views.of(shard.split)
    side = canvas_side(config.embed, how)
    transform = functools.partial(_prepare, how, views, side, follows_exif(shard.split))
    for record, prepared in dataset.read(shard, transform, config.dataset.read_threads):
        if isinstance(prepared, DecodeError):
            _reject(shard, record, prepared, named)
            continue
        for number, view in enumerate(prepared):
            yield to_item(len(named.ids) * views.num_views + number, view, how, side)
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
    config: BenchmarkConfig,
    home: epath.Path,
    fingerprint: files.Fingerprint,
    timings: Timings,
) -> files.EmbeddingFiles:
    """Embeds all text queries into one file; the first process does it."""
    assert model.embed_texts is not None and model.tokenize is not None
    path = home / "text_query.safetensors"
    queries = dataset.text_queries()
    content = json.dumps([[query.query_id, query.text] for query in queries])
    source = {"sha256": hashlib.sha256(content.encode()).hexdigest()}
    whole = {**fingerprint, "text": dict(model.text_fingerprint), "source": source}
    with timings.stage("embed_text_query") as timing:
        if jax.process_index() != 0:
            return files.EmbeddingFiles([path])
        held = claim_unless_done(path, lambda: is_done(path, whole))
        if held is None:
            timing.skipped += len(queries)
            return files.EmbeddingFiles([path])
        with contextlib.closing(held):
            ids = tuple(query.query_id for query in queries)
            tokens = model.tokenize([query.text for query in queries])
            size = config.embed.batch_size_per_device
            vectors = embed_tokens(model.embed_texts, parameters, mesh, size, tokens, ids)
            vectors = vectors.astype(config.embed.storage_dtype)
            numbers = np.arange(len(ids))
            files.write(path, files.Embeddings(ids, vectors, numbers, whole))
        timing.items += len(queries)
    return files.EmbeddingFiles([path])
