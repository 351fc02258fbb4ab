"""Approximate scores of a block on the device, with a bound of their error.

A filter only has to say which rows cannot matter, so it may round its inputs. For a query q and a
row x, rounded to q' and x', the product that the device computes differs from the true one by

    |q.x - fl(q'.x')| <= |(q - q').x| + |q'.(x - x')| + |q'.x' - fl(q'.x')|
                      <= |q - q'| |x| + |q'| |x - x'| + c |q'| |x'|,        c = (D + 8) 2**-23.

The first two terms are Cauchy and Schwarz's inequality with norms that are measured, not assumed.
The third bounds a sum of D exact products of bfloat16 or rounded ones of float32, accumulated in
float32 in any order and possibly without correct rounding (Higham, Accuracy and Stability of
Numerical Algorithms, 2002, section 3.1, with twice the unit roundoff). The true product, rounded to
float32, is the score (`pair_scores`); its rounding is covered by the 8.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from ilias_jax.mesh import num_data_partitions, partitioned, per_partition, replicated

GROUP = 32  # rows that share a maximum: few enough to look at, many enough to pass over
_MANY_ROWS = 2**31
_CACHED_SCORES = 3 * 2**20
_SLACK = 1 + 2**-10  # norms are sums in float32 themselves

Precision = Literal["float32", "bfloat16"]


class Answer(NamedTuple):
    """What the device says about the rows of a block, for P partitions of R rows.

    Attributes:
        scores: [P * Q, R] float32 approximate scores; -inf for rows that are padding.
        maxima: [P, Q, R / GROUP] float32, the largest score of each group of neighbouring rows.
        squares: [P, R] float32 sums of squares of the rows; NaN or infinite where the row is.
        rounding: [P] float32, the largest |x - x'| of the partition.
    """

    scores: jax.Array
    maxima: jax.Array
    squares: jax.Array
    rounding: jax.Array

    def scores_by_partition(self) -> list[np.ndarray | jax.Array]:
        """P times [Q, R]: where the host sees the devices' memory as arrays of numpy."""
        shards = sorted(self.scores.addressable_shards, key=lambda shard: shard.index[0].start or 0)
        scores = [shard.data for shard in shards]
        return jax.device_get(scores) if _is_seen_by_host(shards[0].device) else scores


@dataclasses.dataclass(frozen=True)
class Product:
    """Queries on the devices, ready to be multiplied with blocks.

    Attributes:
        mesh: rows of a block are partitioned over its data axis.
        block_rows: R, rows a device takes at one time, a multiple of `GROUP`.
        queries: [D, Q] rounded, on every device; XLA's CPU products are quicker so than
            with both operands as rows.
        query_norms: [Q] float64, |q'|.
        query_rounding: [Q] float64, |q - q'|.
    """

    mesh: Mesh
    block_rows: int
    queries: jax.Array
    query_norms: np.ndarray
    query_rounding: np.ndarray

    @classmethod
    def open(
        cls, mesh: Mesh, block_rows: int, queries: np.ndarray, precision: Precision
    ) -> "Product":
        """Rounds the queries and sends them to the devices.

        Args:
            mesh: see the class.
            block_rows: at most so many, rounded up to a multiple of `GROUP`; fewer where those are
                quicker.
            queries: [Q, D] float16 or float32.
            precision: that queries and rows are rounded to.
        """
        exact = np.asarray(queries, np.float64)
        rounded = np.asarray(queries, np.float32).astype(jnp.dtype(precision))
        difference = exact - rounded.astype(np.float64)
        return cls(
            mesh,
            -(-min(block_rows, _suitable_rows(mesh, len(queries))) // GROUP) * GROUP,
            jax.device_put(np.ascontiguousarray(rounded.T), replicated(mesh)),
            np.linalg.norm(rounded.astype(np.float64), axis=1),
            np.linalg.norm(difference, axis=1),
        )

    @property
    def rows_at_once(self) -> int:
        """Rows that all devices take together."""
        return num_data_partitions(self.mesh) * self.block_rows

    def multiply(self, rows: np.ndarray) -> Answer:
        """Starts the product with up to `rows_at_once` rows; the result is still on its way.

        Args:
            rows: [n, D] float16 or float32, n >= 1.
        """
        parts, size = num_data_partitions(self.mesh), self.block_rows
        if len(rows) < self.rows_at_once:
            padded = np.zeros((self.rows_at_once, rows.shape[1]), rows.dtype)
            padded[: len(rows)] = rows
        else:
            padded = rows
        split = partitioned(self.mesh)
        block = jax.device_put(padded.reshape(parts, size, -1), split)
        if len(rows) == self.rows_at_once:
            return _of_full_block(self.mesh)(self.queries, block)
        real = np.clip(len(rows) - np.arange(parts) * size, 0, size).astype(np.int32)
        return _of_short_block(self.mesh)(self.queries, block, jax.device_put(real, split))

    def margin(self, norm: float, rounding: float) -> np.ndarray:
        """[Q] float32 bound of the error of every score of a block (see the module's docstring).

        Args:
            norm: the largest L2 norm of its rows.
            rounding: the largest |x - x'|.
        """
        norm, rounding = norm * _SLACK, rounding * _SLACK
        summation = (self.queries.shape[0] + 8) * 2.0**-23 * self.query_norms * (norm + rounding)
        bound = self.query_rounding * norm + self.query_norms * rounding + summation
        return np.nextafter(bound.astype(np.float32), np.float32(np.inf))


def _is_seen_by_host(device: jax.Device) -> bool:
    return bool(device.platform == "cpu")


def _suitable_rows(mesh: Mesh, num_queries: int) -> int:
    """Rows of a block for which a product is quick.

    On a CPU the scores should stay in its caches, and below the size from which the system clears
    new pages for every result: products are up to twice as fast. An accelerator has no such limit.
    """
    if not _is_seen_by_host(mesh.devices.flat[0]):
        return _MANY_ROWS
    return max(GROUP, _CACHED_SCORES // num_queries)


@functools.cache
def _of_full_block(mesh: Mesh) -> Callable[..., Answer]:
    """The compiled product of a mesh; as many products as there are, they share it."""
    return jax.jit(per_partition(mesh, _multiply, (False, True)))


@functools.cache
def _of_short_block(mesh: Mesh) -> Callable[..., Answer]:
    """The same for the last block: to hide padding takes a CPU one more look at all scores."""
    return jax.jit(per_partition(mesh, _multiply, (False, True, True)))


def _multiply(queries: jax.Array, block: jax.Array, num_rows: jax.Array | None = None) -> Answer:
    """One partition's part of `Answer`: queries [D, Q], block [1, R, D], num_rows [1] or None."""
    rows = block[0].astype(jnp.float32)
    rounded = rows.astype(queries.dtype)
    # Two-dimensional: a product with a batch axis takes a slow path on CPUs.
    scores = jnp.einsum(
        "dq,rd->qr",
        queries,
        rounded,
        precision=jax.lax.Precision.HIGHEST,
        preferred_element_type=jnp.float32,
    )
    if num_rows is not None:
        is_real = jnp.arange(rows.shape[0], dtype=jnp.int32) < num_rows[0]
        scores = jnp.where(is_real, scores, -jnp.inf)
    difference = rows - rounded.astype(jnp.float32)
    return Answer(
        scores,
        scores.reshape(scores.shape[0], -1, GROUP).max(axis=2)[None],
        jnp.sum(rows * rows, axis=1)[None],
        jnp.sqrt(jnp.sum(difference * difference, axis=1).max())[None],
    )
