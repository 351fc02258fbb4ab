"""One query's local descriptors against those of many images, in blocks of a few fixed shapes.

Descriptors are padded to the next of a few counts, so that images with few of them cost little.
Every device gets blocks of as many pairs, whatever the number of devices, and goes through its
block in microbatches up to the last real pair, so that a short block costs no more than it holds.
"""

import collections
import functools
from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from ilias_jax.mesh import num_data_partitions, partitioned, per_partition, replicated
from ilias_jax.rerank.descriptors import Descriptors

COUNTS = (50, 100, 200, 400, 600)  # of descriptors of an image, padded
PAIRS = 128  # of a block on one device
# Products of two descriptors that are in memory together, and pairs that they come from, at most.
# On a CPU one pair of 600 + 600 at a time stays in its cache; an accelerator wants a large batch.
_CPU_MOST = (2**17, 4)
_MOST = (2**24, PAIRS)
_IN_FLIGHT = 2  # blocks dispatched before the oldest result is waited for


class Comparison(Protocol):
    """What a method computes of a query and images, to be traced."""

    def prepare(self, parameters: Any, values: jax.Array, count: jax.Array) -> Any:
        """What all pairs of a query share.

        Args:
            parameters: a tree of arrays.
            values: [Q, d] stored descriptors, padded.
            count: [] int32 how many are real.
        """
        ...

    def compare(
        self, parameters: Any, query: Any, values: jax.Array, counts: jax.Array
    ) -> jax.Array:
        """[P] float32 scores of a prepared query and images [P, T, d] of counts [P]."""
        ...


class _Block(NamedTuple):
    """Scores on their way.

    Attributes:
        query: whose they are.
        entries: [n] of its shortlist.
        scores: [partitions x PAIRS] float32; pair j is number j // partitions of partition
            j % partitions.
    """

    query: int
    entries: np.ndarray
    scores: jax.Array


class PairScorer:
    """Scores queries against their shortlists.

    Args:
        comparison: the method.
        parameters: of it.
        mesh: pairs are partitioned over its data axis.
    """

    def __init__(self, comparison: Comparison, parameters: Any, mesh: Mesh) -> None:
        self._partitions = num_data_partitions(mesh)
        self._whole, self._split = replicated(mesh), partitioned(mesh)
        self._parameters = jax.device_put(parameters, self._whole)
        split = (False, False, True)
        step = per_partition(mesh, functools.partial(_score, comparison), split, check=False)
        self._step = jax.jit(step, out_shardings=self._split)

    def score(self, queries: Descriptors, images: Descriptors, indices: np.ndarray) -> np.ndarray:
        """Scores of B queries and the images [B, M] of their shortlists, [B, M] float32."""
        scores = np.zeros(indices.shape, np.float32)
        flying: collections.deque[_Block] = collections.deque()
        for block in self._dispatch(queries, images, indices):
            flying.append(block)
            if len(flying) > _IN_FLIGHT:
                self._take(flying.popleft(), scores)
        while flying:
            self._take(flying.popleft(), scores)
        return scores

    def _dispatch(
        self, queries: Descriptors, images: Descriptors, indices: np.ndarray
    ) -> Iterator[_Block]:
        for query, shortlist in enumerate(indices):
            count = queries.counts[query]
            length = _padded(count, queries.values.shape[1])
            whole = (queries.values[query, :length], np.int32(count))
            prepared = jax.device_put(whole, self._whole)
            for length, entries in self._blocks(images, shortlist):
                batch = self._batch(images, shortlist[entries], length)
                placed = jax.device_put(batch, self._split)
                yield _Block(query, entries, self._step(self._parameters, prepared, placed))

    def _blocks(
        self, images: Descriptors, shortlist: np.ndarray
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Padded counts, and entries of a shortlist whose images have so many descriptors."""
        most, size = images.values.shape[1], PAIRS * self._partitions
        lengths = np.array([_padded(count, most) for count in images.counts[shortlist]], int)
        for length in np.unique(lengths):
            entries = np.flatnonzero(lengths == length)
            for start in range(0, len(entries), size):
                yield int(length), entries[start : start + size]

    def _batch(
        self, images: Descriptors, chosen: np.ndarray, length: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Values and counts of images, dealt to the devices; and how many each device has."""
        size = PAIRS * self._partitions
        padded = np.concatenate([chosen, np.zeros(size - len(chosen), chosen.dtype)])
        dealt = padded.reshape(PAIRS, self._partitions).T.ravel()
        firsts = np.arange(self._partitions)
        numbers = -(-(len(chosen) - firsts) // self._partitions)
        return images.values[dealt, :length], images.counts[dealt], numbers.astype(np.int32)

    def _take(self, block: _Block, scores: np.ndarray) -> None:
        found = np.asarray(jax.device_get(block.scores)).reshape(self._partitions, PAIRS)
        scores[block.query, block.entries] = found.T.ravel()[: len(block.entries)]


def _padded(count: int, most: int) -> int:
    """The least of the fixed counts that holds so many descriptors."""
    return min((fixed for fixed in (*COUNTS, most) if fixed >= count), default=most)


def _score(
    comparison: Comparison,
    parameters: Any,
    query: tuple[jax.Array, jax.Array],
    images: tuple[jax.Array, jax.Array, jax.Array],
) -> jax.Array:
    """Scores [PAIRS] float32 of one device's block, 0 from the last microbatch on."""
    values, counts, number = images
    prepared = comparison.prepare(parameters, *query)
    size = microbatch(len(query[0]), values.shape[1])

    def one(i: jax.Array, scores: jax.Array) -> jax.Array:
        parts = (jax.lax.dynamic_slice_in_dim(each, i * size, size) for each in (values, counts))
        found = comparison.compare(parameters, prepared, *parts)
        return jax.lax.dynamic_update_slice_in_dim(scores, found, i * size, 0)

    steps = (number[0] + size - 1) // size
    return jax.lax.fori_loop(0, steps, one, jnp.zeros(PAIRS, jnp.float32))


def microbatch(num_query: int, num_image: int) -> int:
    """Pairs that are computed together: a power of two, so that it divides a block."""
    on_cpu = jax.local_devices()[0].platform == "cpu"
    products, pairs = _CPU_MOST if on_cpu else _MOST
    fitting = products // (num_query * num_image)
    return min(pairs, 1 << max(0, fitting.bit_length() - 1))
