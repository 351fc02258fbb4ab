"""Approximate scores of database blocks on the devices, with a bound of their error.

The filter decides which rows cannot be among the k best; the others get exact scores. So it may
round its inputs. For a query q and a row x, rounded to q' and x', the product that the device
computes differs from the true one by

    |q.x - fl(q'.x')| <= |(q - q').x| + |q'.(x - x')| + |q'.x' - fl(q'.x')|
                      <= |q - q'| |x| + |q'| |x - x'| + c |q'| |x'|,        c = (D + 8) 2**-23.

The first two terms are Cauchy and Schwarz's inequality with norms that are measured, not assumed.
The third bounds a sum of D exact products of bfloat16 or rounded ones of float32, accumulated in
float32 in any order and possibly without correct rounding (Higham, Accuracy and Stability of
Numerical Algorithms, 2002, section 3.1, with twice the unit roundoff). The true product, rounded to
float32, is the score (`topk.pair_scores`); its rounding is covered by the 8.
"""

import dataclasses
import functools
import time
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
# Below this many multiplications a search is over before a measurement pays.
_WORTH_MEASURING = 10**11
_MANY_QUERIES, _MEASURED_ROWS, _ROUNDS = 4096, 8192, 5
# Rounding leaves more candidates to be scored exactly: products must be that much quicker to pay.
_PAYS = 0.9

Precision = Literal["float32", "bfloat16"]


class BlockScores(NamedTuple):
    """What the devices compute for the rows of a block, in P partitions of R rows.

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
        """P arrays [Q, R], of numpy where the host sees the devices' memory."""
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
        """Rounds the queries [Q, D] float16 or float32 and sends them to the devices.

        Blocks have at most `block_rows`, rounded up to a multiple of `GROUP`; fewer where those
        are quicker.
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

    def multiply(self, rows: np.ndarray) -> BlockScores:
        """Starts the product with [n, D] rows, 1 <= n <= `rows_at_once`; does not wait for it."""
        parts, size = num_data_partitions(self.mesh), self.block_rows
        padded = rows
        if len(rows) < self.rows_at_once:
            padded = np.zeros((self.rows_at_once, rows.shape[1]), rows.dtype)
            padded[: len(rows)] = rows
        split = partitioned(self.mesh)
        block = jax.device_put(padded.reshape(parts, size, -1), split)
        if len(rows) == self.rows_at_once:
            return _compiled(self.mesh, (False, True))(self.queries, block)
        real = np.clip(len(rows) - np.arange(parts) * size, 0, size).astype(np.int32)
        # To hide padding takes a CPU one more look at all scores.
        program = _compiled(self.mesh, (False, True, True))
        return program(self.queries, block, jax.device_put(real, split))

    def margin(self, norm: float, rounding: float) -> np.ndarray:
        """[Q] float32 bound of the error of every score of a block, as the module's docstring says.

        The norm is the largest L2 norm of its rows, the rounding the largest |x - x'|.
        """
        norm, rounding = norm * _SLACK, rounding * _SLACK
        summation = (self.queries.shape[0] + 8) * 2.0**-23 * self.query_norms * (norm + rounding)
        bound = self.query_rounding * norm + self.query_norms * rounding + summation
        return np.nextafter(bound.astype(np.float32), np.float32(np.inf))


def _is_seen_by_host(device: jax.Device) -> bool:
    return bool(device.platform == "cpu")


def _suitable_rows(mesh: Mesh, num_queries: int) -> int:
    """Rows of a block for which a product is quick; without limit on an accelerator.

    On a CPU the scores should stay in its caches, and below the size from which the system clears
    new pages for every result: products are up to twice as fast.
    """
    is_cpu = _is_seen_by_host(mesh.devices.flat[0])
    return max(GROUP, _CACHED_SCORES // num_queries) if is_cpu else _MANY_ROWS


@functools.cache
def _compiled(mesh: Mesh, is_split: tuple[bool, ...]) -> Callable[..., BlockScores]:
    return jax.jit(per_partition(mesh, _multiply, is_split))


def _multiply(
    queries: jax.Array, block: jax.Array, num_rows: jax.Array | None = None
) -> BlockScores:
    """One partition of `BlockScores`: queries [D, Q], block [1, R, D], num_rows [1] or None."""
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
    return BlockScores(
        scores,
        scores.reshape(scores.shape[0], -1, GROUP).max(axis=2)[None],
        jnp.sum(rows * rows, axis=1)[None],
        jnp.sqrt(jnp.sum(difference * difference, axis=1).max())[None],
    )


def choose_precision(
    mesh: Mesh, wanted: Literal["auto"] | Precision, shape: tuple[int, int, int]
) -> Precision:
    """The wanted precision; for "auto" the faster one on these devices, by measurement.

    Results are the same with either. The shape is (queries, database rows, channels).
    """
    if wanted != "auto":
        return wanted
    num_queries, num_rows, dim = shape
    if num_queries * num_rows * dim < _WORTH_MEASURING:
        return "float32"
    return _faster(mesh, min(num_queries, _MANY_QUERIES), dim)


@functools.cache
def _faster(mesh: Mesh, num_queries: int, dim: int) -> Precision:
    """The precision that takes less time for products of this size, in interleaved runs."""
    rng = np.random.default_rng(0)
    queries = rng.standard_normal((num_queries, dim), np.float32)
    precisions: tuple[Precision, Precision] = ("float32", "bfloat16")
    products = [Product.open(mesh, _MEASURED_ROWS, queries, each) for each in precisions]
    rows = rng.standard_normal((products[0].rows_at_once, dim), np.float32)
    seconds = np.empty((1 + _ROUNDS, len(products)))  # the first round compiles
    for round_, number in np.ndindex(seconds.shape):
        start = time.perf_counter()
        jax.block_until_ready(products[number].multiply(rows))
        seconds[round_, number] = time.perf_counter() - start
    float32, bfloat16 = np.median(seconds[1:], axis=0)
    return "bfloat16" if bfloat16 < _PAYS * float32 else "float32"


@dataclasses.dataclass(frozen=True, eq=False)
class PartitionScores:
    """Approximate scores of Q queries and the R rows of one partition of a block.

    Attributes:
        scores: [Q, R] float32; -inf for padding. On the host where that costs nothing, else on
            the device: few of them are ever looked at.
        maxima: [Q, R / GROUP] float32, maxima over groups of neighbouring rows.
        margin: [Q] float32, how far a score may be from the exact one.
        first_row: database index of the first row.
    """

    scores: np.ndarray | jax.Array
    maxima: np.ndarray
    margin: np.ndarray
    first_row: int

    @functools.cached_property
    def all_scores(self) -> np.ndarray:
        """The scores on the host."""
        return jax.device_get(self.scores)

    def groups(self, number: np.ndarray) -> np.ndarray:
        """The scores [n, GROUP] of groups, numbered [n] as they stand in `maxima`."""
        if isinstance(self.scores, np.ndarray):
            # Unlike an index in brackets, `take` lets other threads run.
            return self.scores.reshape(-1, GROUP).take(number, axis=0)
        # Rounded up to a power of two, so that few programs are compiled.
        padded = np.zeros(1 << max(0, len(number) - 1).bit_length(), np.int32)
        padded[: len(number)] = number
        chosen = _take_groups(self.scores, jax.device_put(padded, self.scores.sharding))
        return jax.device_get(chosen)[: len(number)]


@jax.jit
def _take_groups(scores: jax.Array, number: jax.Array) -> jax.Array:
    return jnp.take(scores.reshape(-1, GROUP), number, axis=0)


class Candidates(NamedTuple):
    """Queries [n] int64, rows [n] int64 and approximate scores [n] float32 of pairs, in order."""

    query: np.ndarray
    row: np.ndarray
    score: np.ndarray

    def where(self, kept: np.ndarray | slice) -> "Candidates":
        """The pairs of a mask, an index or a slice."""
        return Candidates(*(array[kept] for array in self))

    def only(self, queries: np.ndarray) -> "Candidates":
        """The pairs of some queries."""
        return self.where(np.isin(self.query, queries))

    def without(self, queries: np.ndarray) -> "Candidates":
        """The pairs of all other queries."""
        return self.where(np.isin(self.query, queries, invert=True)) if queries.size else self

    def of(self, queries: slice) -> "Candidates":
        """The pairs of neighbouring queries, which are counted from 0 then."""
        part = self.where(slice(*np.searchsorted(self.query, [queries.start, queries.stop])))
        return part._replace(query=part.query - queries.start)


def find_candidates(block: PartitionScores, threshold: np.ndarray) -> Candidates:
    """Selects the scores that are at least as high as the threshold of their query.

    Groups whose maximum is below it are passed over, so that a block in which little is found costs
    a look at one value in `GROUP`. The threshold is [Q] float32.
    """
    num_groups = block.maxima.shape[1]
    group = np.flatnonzero(block.maxima >= threshold[:, None])
    query = group // num_groups
    within = block.groups(group)
    kept = np.flatnonzero(within >= threshold[query][:, None])
    which, offset = kept // GROUP, kept % GROUP
    row = (group % num_groups)[which] * GROUP + offset
    return Candidates(query[which], row + block.first_row, within.ravel()[kept])


def merge(parts: list[Candidates]) -> Candidates:
    """The candidates of several blocks, which stand in the order of rows."""
    together = Candidates(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))
    return together.where(np.argsort(together.query, kind="stable"))


def check_margin(exact: np.ndarray, approximate: np.ndarray, margin: np.ndarray) -> None:
    """Raises RuntimeError if scores [n] are further apart than the margin [n] that was computed.

    Nothing that such a device finds can be trusted.
    """
    excess = np.abs(exact - approximate) - margin
    if excess.size and excess.max() > 0:
        worst = int(excess.argmax())
        raise RuntimeError(
            f"this device computed {approximate[worst]} for a score of {exact[worst]}, further off "
            f"than its precision allows ({margin[worst]}); set search.filter=float32 and report it"
        )
