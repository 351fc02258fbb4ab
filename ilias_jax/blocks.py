"""Pieces of rows of any length, cut anew into blocks of one length."""

from collections.abc import Iterable, Iterator

import numpy as np


def regroup(pieces: Iterable[np.ndarray], num_rows: int) -> Iterator[np.ndarray]:
    """Yields the rows of all pieces in order as blocks [num_rows, D]; the last may be shorter.

    Args:
        pieces: arrays [n, D]; those without a row are skipped, whatever their D.
        num_rows: at least 1.
    """
    pending: list[np.ndarray] = []
    count = 0
    for rows in pieces:
        while len(rows):
            taken, rows = rows[: num_rows - count], rows[num_rows - count :]
            pending.append(taken)
            count += len(taken)
            if count == num_rows:
                yield _joined(pending)
                pending, count = [], 0
    if count:
        yield _joined(pending)


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    """One array; a part that is alone is not copied."""
    return parts[0] if len(parts) == 1 else np.concatenate(parts)
