"""Batches through a forward function on the mesh, and their results in the order of their rows."""

import collections
import dataclasses
import functools
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from ilias_jax.errors import UserError
from ilias_jax.mesh import (
    num_data_partitions,
    num_model_partitions,
    parameter_sharding,
    partitioned,
    per_partition,
)
from ilias_jax.model import Parameters, TextFunction
from ilias_jax.preprocessing.batching import Batch, batch_rows
from ilias_jax.profiling import StageTime

Forward = Callable[..., jax.Array]
_IN_FLIGHT = 2  # batches dispatched before the oldest result is waited for
_NAMED = 3  # items that a message names


def place_parameters(parameters: Parameters, mesh: Mesh) -> Parameters:
    """Parameters on the mesh, replicated or partitioned over its model axis."""
    return jax.tree.map(
        lambda leaf: jax.device_put(leaf, parameter_sharding(mesh, leaf.shape)), parameters
    )


@dataclasses.dataclass(frozen=True, eq=False)
class _Flight:
    """A batch on the devices; the result is its vectors and when they were ready."""

    batch: Batch
    dispatched: float
    result: Future[tuple[np.ndarray, float]]


class Embedder:
    """Runs a forward function on batches of fixed shapes, each shape compiled once.

    Args:
        forward: (parameters, *arrays with leading axis B) -> [B, D] float32.
        parameters: already on the mesh.
        mesh: batches are partitioned over its data axis.
        batch_size_per_device: B / data partitions. Every device runs the same program on the same
            shapes whatever their number, so the number does not change the result.
        compiler_options: XLA's, for `forward`.
        normalize: whether results are L2-normalised; local descriptors are so already.
    """

    def __init__(
        self,
        forward: Forward,
        parameters: Parameters,
        mesh: Mesh,
        batch_size_per_device: int,
        compiler_options: Mapping[str, Any] | None = None,
        normalize: bool = True,
    ) -> None:
        self.batch_size = batch_size_per_device * num_data_partitions(mesh)
        self._parameters = parameters
        self._sharding = partitioned(mesh)
        step: Callable[..., jax.Array] = functools.partial(_result, forward, normalize)
        if num_model_partitions(mesh) == 1:  # then no device needs anything of another
            step = per_partition(mesh, step, (False, True), check=False)
        options = dict(compiler_options or {})
        self._step = jax.jit(step, out_shardings=self._sharding, compiler_options=options)

    def _dispatch(self, batch: Batch) -> jax.Array:
        """Starts a batch on the devices; gives [B, D] float32, NaN in padded rows."""
        arrays = jax.device_put((batch.mask, *batch.arrays), self._sharding)
        return self._step(self._parameters, arrays)

    def stream(
        self, batches: Iterable[Batch], timing: StageTime | None = None
    ) -> Generator[tuple[Batch, np.ndarray], None, None]:
        """Yields every batch with its vectors [B, D] float32, in order; NaN in padded rows.

        Results are waited for and fetched on a thread of their own, so that the next batch is
        dispatched meanwhile, and the moment is known at which the devices were done.

        Args:
            batches: assembled on the caller's thread, or read ahead.
            timing: receives the time in which a batch was on the devices, and the tokens.
        """
        ready = 0.0
        flying: collections.deque[_Flight] = collections.deque()

        def wait_for_oldest() -> tuple[Batch, np.ndarray]:
            nonlocal ready
            flight = flying.popleft()
            vectors, when = flight.result.result()
            if timing is not None:
                timing.busy_s += when - max(flight.dispatched, ready)
                timing.real_tokens += flight.batch.real_tokens
                timing.computed_tokens += flight.batch.computed_tokens
            ready = when
            return flight.batch, vectors

        with ThreadPoolExecutor(1, thread_name_prefix="fetch") as pool:
            for batch in batches:
                vectors = self._dispatch(batch)
                flying.append(_Flight(batch, time.perf_counter(), pool.submit(_fetch, vectors)))
                if len(flying) > _IN_FLIGHT:
                    yield wait_for_oldest()
            while flying:
                yield wait_for_oldest()

    def run(self, batches: Iterable[Batch]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields (rows [n] int64, vectors [n, D] float32) of the real items of every batch."""
        for batch, vectors in self.stream(batches):
            yield batch.rows[batch.mask], vectors[batch.mask]


def _result(
    forward: Forward, normalize: bool, parameters: Parameters, batch: tuple[jax.Array, ...]
) -> jax.Array:
    """Float32 embeddings of (mask, *arrays); padded rows are NaN, to pass as none."""
    mask, *arrays = batch
    vectors = forward(parameters, *arrays).astype(jnp.float32)
    if normalize:
        norm = jnp.linalg.norm(vectors, axis=-1, keepdims=True)
        vectors = vectors / jnp.maximum(norm, 1e-12)
    return jnp.where(mask[:, None], vectors, jnp.nan)


def _fetch(vectors: jax.Array) -> tuple[np.ndarray, float]:
    return jax.device_get(vectors), time.perf_counter()


class Collected:
    """The embeddings of one sequence of images, which arrive in any order, each exactly once.

    That of several views is their mean, normalised again. Views are added up in their own order, so
    that neither batches nor devices change a bit.

    Args:
        num_views: V; view v of image i has the row i * V + v.

    Attributes:
        count: images of which all views are there.
    """

    def __init__(self, num_views: int = 1) -> None:
        self._num_views = num_views
        self._rows: list[np.ndarray] = []
        self._vectors: list[np.ndarray] = []
        self._waiting: dict[int, dict[int, np.ndarray]] = {}  # views of images that lack some
        self.count = 0

    def add(self, rows: np.ndarray, vectors: np.ndarray) -> int:
        """Takes rows [n] int64, vectors [n, D] float32; returns how many images became whole."""
        if self._num_views > 1:
            rows, vectors = self._means(rows, vectors)
        self._rows.append(rows)
        self._vectors.append(vectors)
        self.count += len(rows)
        return len(rows)

    def _means(self, rows: np.ndarray, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The images that are whole with these views, and their normalised means."""
        whole, means = [], []
        for row, vector in zip(rows.tolist(), vectors, strict=True):
            image, view = divmod(row, self._num_views)
            views = self._waiting.setdefault(image, {})
            views[view] = vector
            if len(views) == self._num_views:
                mean = np.mean([views[v] for v in sorted(views)], axis=0, dtype=np.float32)
                means.append(mean / np.maximum(np.linalg.norm(mean), np.float32(1e-12)))
                whole.append(image)
                del self._waiting[image]
        return np.array(whole, np.int64), np.array(means, np.float32).reshape(-1, vectors.shape[1])

    def result(self, names: Sequence[str], origin: str) -> np.ndarray:
        """All vectors in order, [N, D] float32; the names of the N images are for messages.

        Raises:
            RuntimeError: a row is missing or comes twice.
            UserError: a vector is not finite.
        """
        rows = np.concatenate(self._rows or [np.zeros(0, np.int64)])
        num_rows = len(names)
        if not np.array_equal(np.sort(rows), np.arange(num_rows)):
            raise RuntimeError(
                f"{origin}: {len(rows)} embeddings for {num_rows} items, or one of them twice"
            )
        if not num_rows:
            return np.zeros((0, 0), np.float32)
        vectors = np.empty((num_rows, self._vectors[0].shape[1]), np.float32)
        vectors[rows] = np.concatenate(self._vectors)
        bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
        if bad.size:
            first = ", ".join(names[row] for row in bad[:_NAMED])
            raise UserError(
                f"{origin}: the model gave NaN or infinity for {bad.size} of {num_rows} items, "
                f"first {first}; nothing of them was written. Weights that are damaged or of "
                "another model do that, and so may model.dtype=float16, whose largest "
                "number is 65,504, and bfloat16 where float32 does not"
            )
        return vectors


def collect(
    results: Iterable[tuple[np.ndarray, np.ndarray]], names: Sequence[str], origin: str
) -> np.ndarray:
    """All results of `Embedder.run` in order; see `Collected.result`."""
    collected = Collected()
    for rows, vectors in results:
        collected.add(rows, vectors)
    return collected.result(names, origin)


def embed_tokens(
    forward: TextFunction,
    parameters: Parameters,
    mesh: Mesh,
    batch_size_per_device: int,
    tokens: np.ndarray,
    ids: Sequence[str],
) -> np.ndarray:
    """Embeds tokens [N, L] int32 of N texts as [N, D] float32, L2-normalised.

    Arguments are those of `Embedder`; the N ids are for the UserError if a vector is not finite.
    """
    embedder = Embedder(forward, parameters, mesh, batch_size_per_device)
    results = embedder.run(batch_rows(tokens, embedder.batch_size))
    return collect(results, ids, "text queries")
