"""Sources of vectors made of others: one after another, some of the rows, every row mapped."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from ilias_jax.blocks import regroup
from ilias_jax.vectors import VectorSource

_ROWS_AT_ONCE = 8192  # however long the blocks are that the search asks for


@dataclasses.dataclass(frozen=True)
class Concatenated:
    """Several sources as one sequence of rows.

    Attributes:
        parts: in the order of their rows; one is looked at at a time.
    """

    parts: Sequence[VectorSource]

    def num_rows(self) -> int:
        """N, of all parts."""
        return sum(part.num_rows() for part in self.parts)

    def ids(self) -> list[str]:
        """All N ids in row order."""
        return [name for part in self.parts for name in part.ids()]

    def ids_at(self, rows: np.ndarray) -> list[str]:
        """The ids of some rows; the ids of one part are in memory at a time.

        Args:
            rows: [n] integers in [0, N), rising.
        """
        found: list[str] = []
        start = 0
        for part in self.parts:
            end = start + part.num_rows()
            wanted = rows[np.searchsorted(rows, start) : np.searchsorted(rows, end)] - start
            if len(wanted):
                names = part.ids()
                found += [names[row] for row in wanted]
            start = end
        return found

    def vectors(self) -> np.ndarray:
        """All rows at once, [N, D]; float32 if any part is."""
        parts = [part.vectors() for part in self.parts]
        return np.concatenate([part for part in parts if len(part)] or parts)

    def blocks(self, num_rows: int) -> Iterator[np.ndarray]:
        """Yields all rows in order as blocks [num_rows, D]; the last one may be shorter."""
        return regroup((b for part in self.parts for b in part.blocks(num_rows)), num_rows)


@dataclasses.dataclass(frozen=True, eq=False)
class Selected:
    """Some rows of a source, in its order.

    Attributes:
        source: M rows.
        kept: [M] bool, the rows that are there.
    """

    source: VectorSource
    kept: np.ndarray

    def num_rows(self) -> int:
        """N, of the kept rows."""
        return int(np.count_nonzero(self.kept))

    def ids(self) -> list[str]:
        """The N ids of the kept rows."""
        return [name for name, keep in zip(self.source.ids(), self.kept, strict=True) if keep]

    def vectors(self) -> np.ndarray:
        """The kept rows at once, [N, D] in the dtype of the source."""
        return self.source.vectors()[self.kept]

    def blocks(self, num_rows: int) -> Iterator[np.ndarray]:
        """Yields the kept rows in order as blocks [num_rows, D]; the last one may be shorter."""
        return regroup(self._pieces(), num_rows)

    def _pieces(self) -> Iterator[np.ndarray]:
        start = 0
        for block in self.source.blocks(_ROWS_AT_ONCE) if self.kept.any() else ():
            yield block[self.kept[start : start + len(block)]]
            start += len(block)


@dataclasses.dataclass(frozen=True)
class Mapped:
    """A source whose vectors go through a function.

    Attributes:
        source: [N, D] rows.
        apply: [n, D] -> [n, d] float32, a row at a time. It is always given the same rows
            together, so that the length of the blocks asked for does not change a single bit.
    """

    source: VectorSource
    apply: Callable[[np.ndarray], np.ndarray]

    def num_rows(self) -> int:
        """N."""
        return self.source.num_rows()

    def ids(self) -> list[str]:
        """All N ids in row order."""
        return self.source.ids()

    def vectors(self) -> np.ndarray:
        """All rows at once, [N, d] float32."""
        parts = list(self._pieces())
        return np.concatenate(parts) if parts else self.apply(self.source.vectors())

    def blocks(self, num_rows: int) -> Iterator[np.ndarray]:
        """Yields all rows in order as blocks [num_rows, d]; the last one may be shorter."""
        return regroup(self._pieces(), num_rows)

    def _pieces(self) -> Iterator[np.ndarray]:
        return map(self.apply, self.source.blocks(_ROWS_AT_ONCE))
