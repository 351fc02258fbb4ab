"""Rows of vectors with ids, wherever they are kept."""

from collections.abc import Iterator
from typing import Protocol

import numpy as np


class VectorSource(Protocol):
    """N vectors of one length in a fixed order."""

    def num_rows(self) -> int:
        """N."""
        ...

    def ids(self) -> list[str]:
        """All N ids in row order."""
        ...

    def vectors(self) -> np.ndarray:
        """All rows at once, [N, D] float16 or float32."""
        ...

    def rows(self, indices: np.ndarray) -> np.ndarray:
        """Any rows, repeated or not, as [..., D] for indices [...] in [0, N)."""
        ...

    def blocks(self, num_rows: int) -> Iterator[np.ndarray]:
        """Yields all rows in order as blocks [num_rows, D]; the last one may be shorter."""
        ...

    def place_of(self, row: int) -> str:
        """Where a row in [0, N) is kept, for messages: file, row of the file and id."""
        ...
