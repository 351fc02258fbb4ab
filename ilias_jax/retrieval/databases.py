"""Databases that are not embedding files but behave as them: adapted ones and those in memory."""

import dataclasses
from collections.abc import Iterator
from typing import Protocol

import numpy as np

from ilias_jax.adapter import Adapter
from ilias_jax.vectors import VectorSource


class Database(VectorSource, Protocol):
    """Vectors of which any rows can be fetched."""

    def rows(self, indices: np.ndarray) -> np.ndarray:
        """The rows of indices [...], as [..., D]."""
        ...


@dataclasses.dataclass(frozen=True)
class AdaptedDatabase:
    """A database seen through an adapter; rows are adapted whenever they are read.

    Attributes:
        source: N rows of D channels.
        adapter: from D to d channels.
    """

    source: Database
    adapter: Adapter

    def num_rows(self) -> int:
        """N."""
        return self.source.num_rows()

    def ids(self) -> list[str]:
        """All ids in row order."""
        return self.source.ids()

    def vectors(self) -> np.ndarray:
        """All rows at once, [N, d] float32."""
        return self.adapter.apply(self.source.vectors())

    def blocks(self, num_rows: int) -> Iterator[np.ndarray]:
        """Yields all rows in order as blocks [num_rows, d]; the last one may be shorter."""
        return map(self.adapter.apply, self.source.blocks(num_rows))

    def rows(self, indices: np.ndarray) -> np.ndarray:
        """The rows of indices [...], as [..., d] float32."""
        found = self.source.rows(np.ravel(indices))
        return self.adapter.apply(found).reshape(*np.shape(indices), self.adapter.dim)


@dataclasses.dataclass(frozen=True, eq=False)
class MemoryDatabase:
    """A database in memory, whose ids are those of another.

    Attributes:
        source: has the ids.
        array: [N, D] float32.
    """

    source: VectorSource
    array: np.ndarray

    def num_rows(self) -> int:
        """N."""
        return len(self.array)

    def ids(self) -> list[str]:
        """All ids in row order."""
        return self.source.ids()

    def vectors(self) -> np.ndarray:
        """All rows at once, [N, D] float32."""
        return self.array

    def blocks(self, num_rows: int) -> Iterator[np.ndarray]:
        """Yields all rows in order as blocks [num_rows, D]; the last one may be shorter."""
        for start in range(0, len(self.array), num_rows):
            yield self.array[start : start + num_rows]

    def rows(self, indices: np.ndarray) -> np.ndarray:
        """The rows of indices [...], as [..., D]."""
        return self.array[indices]


def to_memory(source: VectorSource, block_rows: int) -> MemoryDatabase:
    """Reads a database into memory as float32, block by block, so that it is there only once."""
    count, start = source.num_rows(), 0
    array = np.empty((count, 0), np.float32)
    for block in source.blocks(block_rows):
        if not start:
            array = np.empty((count, block.shape[1]), np.float32)
        array[start : start + len(block)] = block
        start += len(block)
    return MemoryDatabase(source, array)
