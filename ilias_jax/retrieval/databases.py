"""A database in memory that behaves as the files it was read from."""

import dataclasses
from collections.abc import Iterator

import numpy as np

from ilias_jax.norms import check_rows
from ilias_jax.vectors import VectorSource


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

    def place_of(self, row: int) -> str:
        """Where the row is that this one was made from."""
        return self.source.place_of(row)


def to_memory(source: VectorSource, block_rows: int) -> MemoryDatabase:
    """Reads a database into memory as float32, block by block, so that it is there only once.

    Raises:
        UserError: a row is not finite or not L2-normalised.
    """
    count, start = source.num_rows(), 0
    array = np.empty((count, 0), np.float32)
    for block in source.blocks(block_rows):
        if not start:
            array = np.empty((count, block.shape[1]), np.float32)
        check_rows(block, start, source)
        array[start : start + len(block)] = block
        start += len(block)
    return MemoryDatabase(source, array)
