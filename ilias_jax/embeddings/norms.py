"""The length of vectors: scores mean nothing unless every vector is finite and L2-normalised."""

import dataclasses
import itertools
from collections.abc import Iterator

import numpy as np

from ilias_jax.embeddings.sources import SameRows, VectorSource
from ilias_jax.errors import UserError

# One tolerance for every dtype: vectors normalised in bfloat16 differ from length 1 by up to 0.008
# (norm and quotient are each rounded by up to 2^-8), in float16 by up to 0.001, and the dtype that
# they are stored in does not say which it was. Vectors that nobody has normalised are far off.
LENGTH_TOLERANCE = 0.01
_ROWS_AT_ONCE = 256  # as float32 they stay in cache


def check_norms(squares: np.ndarray, rows: range | np.ndarray, source: VectorSource) -> None:
    """Refuses rows that no search may see.

    Args:
        squares: [n] float32 sums of squares of rows; NaN or infinite where the row holds such a
            value.
        rows: [n] indices of the rows in the source.
        source: says where a row is kept.

    Raises:
        UserError: a row is not finite, or its length is not within `LENGTH_TOLERANCE` of 1.
    """
    good = np.abs(np.sqrt(squares) - 1) <= LENGTH_TOLERANCE  # NaN is not
    if good.all():
        return
    at = int(np.argmin(good))
    place, norm = source.place_of(int(rows[at])), np.sqrt(squares[at])
    if not np.isfinite(norm):
        raise UserError(f"{place} holds NaN or infinity; extract it again")
    raise UserError(
        f"{place} has length {norm:.4g} and not 1 ({1 - LENGTH_TOLERANCE:g} to "
        f"{1 + LENGTH_TOLERANCE:g} is allowed); scores are of L2-normalised vectors: extract it "
        "again, or, for official feature files, let `ilias-jax search --normalize` divide every "
        "row by its norm"
    )


def squared_norms(rows: np.ndarray) -> np.ndarray:
    """Sums of squares of rows [n, D] float16 or float32, as [n] float32, on the host."""
    squares = np.empty(len(rows), np.float32)
    with np.errstate(over="ignore"):
        for start in range(0, len(rows), _ROWS_AT_ONCE):
            part = np.asarray(rows[start : start + _ROWS_AT_ONCE], np.float32)
            squares[start : start + _ROWS_AT_ONCE] = np.vecdot(part, part)
    return squares


@dataclasses.dataclass(frozen=True)
class Checked(SameRows):
    """A source whose rows are checked on the host whenever they are read.

    For what looks at the rows on the host, such as an adapter, whose output is normalised whatever
    it was given. A search that has the norms on the device gives them to `check_norms` instead.

    Attributes:
        source: N rows that should be L2-normalised.
    """

    def _read(self, wanted: np.ndarray) -> np.ndarray:
        rows = self.source.rows(wanted)
        check_norms(squared_norms(rows), wanted, self.source)
        return rows

    def blocks(self, num_rows: int) -> Iterator[np.ndarray]:
        """Yields all rows in order as blocks [num_rows, D]; raises UserError as `check_norms`."""
        return map(self._passed, self.source.blocks(num_rows), itertools.count(0, num_rows))

    def _passed(self, block: np.ndarray, first_row: int) -> np.ndarray:
        check_norms(squared_norms(block), range(first_row, first_row + len(block)), self.source)
        return block
