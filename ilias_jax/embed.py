"""Embedding: batches through a model on the mesh, one file a shard, finished shards skipped."""

import collections
import dataclasses
import functools
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax.sharding import Mesh

from ilias_jax import embeddings as files
from ilias_jax.batching import Batch
from ilias_jax.compiler import compiler_options
from ilias_jax.mesh import num_data_partitions, parameter_sharding, partitioned
from ilias_jax.model import Parameters
from ilias_jax.progress import track
from ilias_jax.records import Shard
from ilias_jax.timings import StageTime

Forward = Callable[..., jax.Array]
_IN_FLIGHT = 2  # batches dispatched before the oldest result is fetched


def place_parameters(parameters: Parameters, mesh: Mesh) -> Parameters:
    """Puts parameters on the mesh, replicated or partitioned over its model axis."""
    return jax.tree.map(
        lambda leaf: jax.device_put(leaf, parameter_sharding(mesh, leaf.shape)), parameters
    )


class Embedder:
    """Runs a forward function on batches of fixed shapes, each shape compiled once.

    Args:
        forward: (parameters, *arrays with leading axis B) -> [B, D] float32, unnormalised.
        parameters: already on the mesh, or their shapes if nothing will be run.
        mesh: batches are partitioned over its data axis.
        batch_size_per_device: B / data partitions. Every device runs the same program on the same
            shapes whatever their number, so the number does not change the result.
    """

    def __init__(
        self, forward: Forward, parameters: Parameters, mesh: Mesh, batch_size_per_device: int
    ) -> None:
        self.batch_size = batch_size_per_device * num_data_partitions(mesh)
        self._parameters = parameters
        self._sharding = partitioned(mesh)
        self._step = jax.jit(
            functools.partial(_normalized, forward),
            out_shardings=self._sharding,
            compiler_options=compiler_options(mesh.devices.flat[0].platform),
        )

    def _dispatch(self, batch: Batch) -> jax.Array:
        """Starts a batch on the devices; gives [B, D] float32, NaN in padded rows."""
        arrays = jax.device_put((batch.mask, *batch.arrays), self._sharding)
        return self._step(self._parameters, *arrays)

    def temporary_bytes(self, arrays: Sequence[jax.ShapeDtypeStruct]) -> int:
        """Bytes that a device allocates for a batch beside parameters, inputs and outputs.

        Compiles the program and runs nothing.

        Args:
            arrays: of the batch, without the mask; each [batch_size, ...].
        """
        mask = jax.ShapeDtypeStruct((self.batch_size,), bool)
        placed = [
            jax.ShapeDtypeStruct(one.shape, one.dtype, sharding=self._sharding)
            for one in (mask, *arrays)
        ]
        analysis = self._step.lower(self._parameters, *placed).compile().memory_analysis()
        return 0 if analysis is None else analysis.temp_size_in_bytes

    def run(self, batches: Iterable[Batch]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields (rows [n] int64, vectors [n, D] float32) of the real items of every batch."""
        waiting: collections.deque[tuple[Batch, jax.Array]] = collections.deque()
        for batch in batches:
            waiting.append((batch, self._dispatch(batch)))
            if len(waiting) > _IN_FLIGHT:
                yield _fetch(*waiting.popleft())
        while waiting:
            yield _fetch(*waiting.popleft())


def _normalized(
    forward: Forward, parameters: Parameters, mask: jax.Array, *arrays: jax.Array
) -> jax.Array:
    """L2-normalised float32 embeddings; padded rows become NaN, so that none can pass as real."""
    vectors = forward(parameters, *arrays).astype(jnp.float32)
    norm = jnp.linalg.norm(vectors, axis=-1, keepdims=True)
    return jnp.where(mask[:, None], vectors / jnp.maximum(norm, 1e-12), jnp.nan)


def _fetch(batch: Batch, vectors: jax.Array) -> tuple[np.ndarray, np.ndarray]:
    return batch.rows[batch.mask], jax.device_get(vectors)[batch.mask]


def collect(results: Iterable[tuple[np.ndarray, np.ndarray]], num_rows: int) -> np.ndarray:
    """Puts rows in order, each exactly once.

    Returns:
        [num_rows, D] float32.

    Raises:
        RuntimeError: a row is missing, comes twice or is not finite.
    """
    parts = list(results)
    rows = np.concatenate([rows for rows, _ in parts] or [np.zeros(0, np.int64)])
    if len(rows) != num_rows or not np.array_equal(np.sort(rows), np.arange(num_rows)):
        raise RuntimeError(f"{len(rows)} embeddings for {num_rows} items, or one of them twice")
    if not parts:
        return np.zeros((0, 0), np.float32)
    vectors = np.empty((num_rows, parts[0][1].shape[1]), np.float32)
    vectors[rows] = np.concatenate([vectors for _, vectors in parts])
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if bad.size:
        raise RuntimeError(f"the model gave NaN or infinity for {bad.size} items, first {bad[0]}")
    return vectors


def average_views(
    results: Iterable[tuple[np.ndarray, np.ndarray]], num_views: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Turns embeddings of views into those of images: the normalised mean.

    Views of an image may come in any order; they are added up in their own, so that neither
    batches nor devices change a bit. Only images of which a view is still missing are kept.

    Args:
        results: (rows [n] int64, vectors [n, D] float32 L2-normalised); view v of image i has the
            row i * num_views + v.
        num_views: V.

    Yields:
        (images [n] int64, vectors [n, D] float32 L2-normalised).
    """
    waiting: dict[int, dict[int, np.ndarray]] = {}
    for rows, vectors in results:
        whole = []
        for row, vector in zip(rows.tolist(), vectors, strict=True):
            image, view = divmod(row, num_views)
            seen = waiting.setdefault(image, {})
            seen[view] = vector
            if len(seen) == num_views:
                whole.append(image)
        if whole:
            yield np.array(whole, np.int64), np.stack([_mean(waiting.pop(i)) for i in whole])
    if waiting:
        raise RuntimeError(f"{len(waiting)} images have views that were not embedded")


def _mean(views: dict[int, np.ndarray]) -> np.ndarray:
    """[D] float32 normalised mean of the views of one image, in the order of their numbers."""
    mean = np.mean([views[view] for view in sorted(views)], axis=0, dtype=np.float32)
    return mean / np.maximum(np.linalg.norm(mean), np.float32(1e-12))


@dataclasses.dataclass(frozen=True)
class Named:
    """Ids and record numbers of the rows that an embedded shard has, filled while it is read."""

    ids: list[str]
    numbers: list[int]
    rejected: list[tuple[str, str]]


def is_done(path: epath.Path, fingerprint: files.Fingerprint) -> bool:
    """Whether a shard's file exists and is of this model, preprocessing and source."""
    if not path.exists():
        return False
    same = files.canonical_json(files.read_fingerprint(path)) == files.canonical_json(fingerprint)
    if not same:
        logging.warning("%s is of another source; embedding again", path)
    return same


@dataclasses.dataclass(frozen=True)
class ShardJob:
    """One shard to embed.

    Attributes:
        shard: where the images are.
        path: of the embedding file.
        fingerprint: of the embedding file.
        num_views: embeddings that are averaged for one image.
    """

    shard: Shard
    path: epath.Path
    fingerprint: files.Fingerprint
    num_views: int = 1


def embed_shards(
    jobs: Sequence[ShardJob],
    batches_of: Callable[[Shard, Named], Iterable[Batch]],
    embedder: Embedder,
    dtype: str,
    timing: StageTime,
    name: str,
) -> None:
    """Embeds every shard that has no file yet.

    Args:
        jobs: this process's shards.
        batches_of: reads a shard into batches, a row for every view of every image, and notes the
            images in `Named`.
        embedder: runs the model.
        dtype: "float16" or "float32", of the stored vectors.
        timing: receives time and counts.
        name: of the stage, for the progress display.
    """
    with track(name, sum(job.shard.num_records for job in jobs)) as advance:
        for job in jobs:
            if is_done(job.path, job.fingerprint):
                timing.skipped += job.shard.num_records
                advance(job.shard.num_records)
                continue
            named = Named([], [], [])
            results = []
            embedded = embedder.run(batches_of(job.shard, named))
            if job.num_views > 1:
                embedded = average_views(embedded, job.num_views)
            for rows, vectors in embedded:
                results.append((rows, vectors))
                advance(len(rows))
            vectors = collect(results, len(named.ids)).astype(dtype)
            files.write(
                job.path,
                files.Embeddings(
                    tuple(named.ids),
                    vectors,
                    np.asarray(named.numbers, np.int64),
                    job.fingerprint,
                    tuple(named.rejected),
                ),
            )
            timing.items += len(named.ids)
            advance(job.shard.num_records - len(named.ids))  # not selected or rejected
