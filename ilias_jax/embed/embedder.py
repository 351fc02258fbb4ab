"""Batches through a forward function on the mesh, several on their way at a time."""

import collections
import dataclasses
import functools
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from ilias_jax.batching import Batch
from ilias_jax.mesh import (
    num_data_partitions,
    num_model_partitions,
    parameter_sharding,
    partitioned,
    per_partition,
)
from ilias_jax.model import Parameters
from ilias_jax.timings import StageTime

Forward = Callable[..., jax.Array]
_IN_FLIGHT = 2  # batches dispatched before the oldest result is waited for


def place_parameters(parameters: Parameters, mesh: Mesh) -> Parameters:
    """Puts parameters on the mesh, replicated or partitioned over its model axis."""
    return jax.tree.map(
        lambda leaf: jax.device_put(leaf, parameter_sharding(mesh, leaf.shape)), parameters
    )


@dataclasses.dataclass(frozen=True, eq=False)
class _Flight:
    """A batch on its way: when the devices got it, and what comes back and when."""

    batch: Batch
    dispatched: float
    landing: Future[tuple[np.ndarray, float]]


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
        step: Callable[..., jax.Array] = functools.partial(_normalized, forward)
        if num_model_partitions(mesh) == 1:  # then no device needs anything of another
            step = per_partition(mesh, step, (False, True), check=False)
        self._step = jax.jit(step, out_shardings=self._sharding)

    def _dispatch(self, batch: Batch) -> jax.Array:
        """Starts a batch on the devices; gives [B, D] float32, NaN in padded rows."""
        arrays = jax.device_put((batch.mask, *batch.arrays), self._sharding)
        return self._step(self._parameters, arrays)

    def temporary_bytes(self, arrays: Sequence[jax.ShapeDtypeStruct]) -> int:
        """Bytes that a device allocates for a batch beside parameters, inputs and outputs.

        Compiles the program and runs nothing.

        Args:
            arrays: of the batch, without the mask; each [batch_size, ...].
        """
        mask = jax.ShapeDtypeStruct((self.batch_size,), bool)
        placed = tuple(
            jax.ShapeDtypeStruct(one.shape, one.dtype, sharding=self._sharding)
            for one in (mask, *arrays)
        )
        analysis = self._step.lower(self._parameters, placed).compile().memory_analysis()
        return 0 if analysis is None else analysis.temp_size_in_bytes

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
        landed = 0.0
        flying: collections.deque[_Flight] = collections.deque()

        def land() -> tuple[Batch, np.ndarray]:
            nonlocal landed
            flight = flying.popleft()
            vectors, when = flight.landing.result()
            if timing is not None:
                timing.busy_s += when - max(flight.dispatched, landed)
                timing.real_tokens += flight.batch.real_tokens
                timing.computed_tokens += flight.batch.computed_tokens
            landed = when
            return flight.batch, vectors

        with ThreadPoolExecutor(1, thread_name_prefix="fetch") as pool:
            for batch in batches:
                vectors = self._dispatch(batch)
                flying.append(_Flight(batch, time.perf_counter(), pool.submit(_fetch, vectors)))
                if len(flying) > _IN_FLIGHT:
                    yield land()
            while flying:
                yield land()

    def run(self, batches: Iterable[Batch]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields (rows [n] int64, vectors [n, D] float32) of the real items of every batch."""
        for batch, vectors in self.stream(batches):
            yield batch.rows[batch.mask], vectors[batch.mask]


def _normalized(
    forward: Forward, parameters: Parameters, batch: tuple[jax.Array, ...]
) -> jax.Array:
    """L2-normalised float32 embeddings of (mask, *arrays); padded rows become NaN.

    So none can pass as real.
    """
    mask, *arrays = batch
    vectors = forward(parameters, *arrays).astype(jnp.float32)
    norm = jnp.linalg.norm(vectors, axis=-1, keepdims=True)
    return jnp.where(mask[:, None], vectors / jnp.maximum(norm, 1e-12), jnp.nan)


def _fetch(vectors: jax.Array) -> tuple[np.ndarray, float]:
    """The vectors on the host, and when they were ready."""
    return jax.device_get(vectors), time.perf_counter()
