"""Exact inner-product search: database blocks streamed through the mesh, top-k kept on the device.

Every data partition keeps its own running top-k over the rows that it was given, and all are merged
once at the end. A block's rows are always cut into partitions of the same size, one a device, so
that a score is computed by the same program on the same shapes whatever the number of devices.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from ilias_jax.mesh import num_data_partitions, partitioned, replicated
from ilias_jax.progress import track
from ilias_jax.vectors import VectorSource

_NO_ROW = np.iinfo(np.int32).max


@functools.partial(jax.jit, donate_argnums=(0, 1))
def _merge_block(
    best_scores: jax.Array,
    best_rows: jax.Array,
    queries: jax.Array,
    block: jax.Array,
    first_row: jax.Array,
    num_rows: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Merges one block into the running top-k of every partition.

    Args:
        best_scores: [P, Q, K] float32, falling; -inf where nothing is known yet.
        best_rows: [P, Q, K] int32 database indices, lower first among equal scores.
        queries: [Q, D] float32.
        block: [P, R, D] float16 or float32 database rows.
        first_row: [P] int32 database index of every partition's first row.
        num_rows: [P] int32 real rows of every partition; the rest is padding.

    Returns:
        New best_scores and best_rows.
    """
    scores = jnp.einsum(
        "qd,prd->pqr", queries, block.astype(jnp.float32), precision=jax.lax.Precision.HIGHEST
    )
    # A negative zero would sort below a positive one, though they are equal.
    scores = jnp.where(scores == 0, 0.0, scores)
    place = jnp.arange(block.shape[1], dtype=jnp.int32)
    scores = jnp.where(place < num_rows[:, None, None], scores, -jnp.inf)
    top, where = jax.lax.top_k(scores, min(best_scores.shape[2], block.shape[1]))
    # The running list comes first: on equal scores top_k keeps the lower database index.
    all_scores = jnp.concatenate([best_scores, top], axis=2)
    all_rows = jnp.concatenate([best_rows, first_row[:, None, None] + where], axis=2)
    scores, where = jax.lax.top_k(all_scores, best_scores.shape[2])
    return scores, jnp.take_along_axis(all_rows, where, axis=2)


@functools.partial(jax.jit, static_argnums=2)
def _merge_partitions(
    best_scores: jax.Array, best_rows: jax.Array, k: int
) -> tuple[jax.Array, jax.Array]:
    """Merges [P, Q, K] of all partitions into [Q, k], lower index first among equal scores."""
    partitions, num_queries, kept = best_scores.shape
    scores = best_scores.transpose(1, 0, 2).reshape(num_queries, partitions * kept)
    rows = best_rows.transpose(1, 0, 2).reshape(num_queries, partitions * kept)
    falling, rows = jax.lax.sort((-scores, rows), dimension=1, num_keys=2)
    return -falling[:, :k], rows[:, :k]


@dataclasses.dataclass(frozen=True)
class ExactSearch:
    """Exact search.

    Attributes:
        mesh: database rows are partitioned over its data axis.
        block_rows: database rows a device holds at one time.
    """

    mesh: Mesh
    block_rows: int

    def open(self, database: VectorSource, k: int) -> "ExactIndex":
        """Makes the database searchable; nothing is read yet.

        Args:
            database: N rows of D channels.
            k: length of the lists that will be asked for, at least 1.
        """
        num_rows = database.num_rows()
        return ExactIndex(self.mesh, self.block_rows, database, num_rows, min(k, num_rows))


@dataclasses.dataclass(frozen=True)
class ExactIndex:
    """A database that is streamed through the mesh for every search.

    Attributes:
        mesh: see `ExactSearch`.
        block_rows: see `ExactSearch`.
        database: the rows.
        num_rows: N.
        k: length of the lists, at most N.
    """

    mesh: Mesh
    block_rows: int
    database: VectorSource
    num_rows: int
    k: int

    def facts(self) -> dict[str, int]:
        """What the report should know beside the configuration: nothing."""
        return {}

    def search(self, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Finds the k rows of largest inner product with every query.

        Args:
            queries: [Q, D] float16 or float32.

        Returns:
            Scores [Q, k] float32, falling, and database indices [Q, k] int32; equal scores keep
            the lower database index first.
        """
        parts = num_data_partitions(self.mesh)
        split, whole = partitioned(self.mesh), replicated(self.mesh)
        on_device = jax.device_put(np.asarray(queries, np.float32), whole)
        shape = (parts, len(queries), self.k)
        state = jax.device_put(
            (np.full(shape, -np.inf, np.float32), np.full(shape, _NO_ROW, np.int32)), split
        )
        start = 0
        with track("exact search", self.num_rows) as advance:
            for block in self.database.blocks(parts * self.block_rows):
                partitions = jax.device_put(self._partitions(block, start), split)
                # One merge at a time: the next block is read and sent meanwhile, no more than that.
                state = _merge_block(*jax.block_until_ready(state), on_device, *partitions)
                start += len(block)
                advance(len(block))
        scores, rows = jax.device_get(_merge_partitions(*state, self.k))
        return scores, rows

    def _partitions(
        self, block: np.ndarray, start: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Cuts a block into [P, R, D] with every partition's first row [P] and real rows [P]."""
        parts, rows = num_data_partitions(self.mesh), self.block_rows
        padded = np.zeros((parts * rows, block.shape[1]), block.dtype)
        padded[: len(block)] = block
        offsets = np.arange(parts, dtype=np.int32) * rows
        real = np.clip(len(block) - offsets, 0, rows).astype(np.int32)
        return padded.reshape(parts, rows, -1), (start + offsets).astype(np.int32), real
