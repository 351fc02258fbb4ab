"""Rows at any places, fetched in rising order and each once; and runs of places that lie close."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

Read = Callable[[np.ndarray], np.ndarray]


def gather(indices: np.ndarray, num_rows: int, read: Read) -> np.ndarray:
    """Rows at any indices, from a function that knows rising ones alone.

    Args:
        indices: [...] integers, repeated or not, in any order.
        num_rows: N, of the rows there are.
        read: rising indices [n], each once -> rows [n, D].

    Returns:
        [..., D].

    Raises:
        IndexError: an index is not in [0, N).
    """
    indices = np.asarray(indices)
    if indices.ndim == 1 and (np.diff(indices) > 0).all():
        wanted, back = indices, None  # nothing to put back: spares a copy of the rows
    else:
        wanted, back = np.unique(indices, return_inverse=True)
    if wanted.size and (wanted[0] < 0 or wanted[-1] >= num_rows):
        raise IndexError(f"rows {wanted[0]}..{wanted[-1]} of {num_rows}")
    found = read(wanted)
    return found if back is None else found[back.reshape(indices.shape)]


def split(rising: np.ndarray, starts: Sequence[int]) -> Iterator[tuple[int, slice]]:
    """Deals rising indices out to the parts of a sequence that hold them.

    Args:
        rising: [n] indices in [0, N).
        starts: of every part the index of its first row, and N.

    Yields:
        Part and the slice of `rising` that lies in it; parts that hold none are left out.
    """
    ends = np.searchsorted(rising, starts)
    for part, (low, high) in enumerate(zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True)):
        if low < high:
            yield part, slice(low, high)


def runs(rising: np.ndarray, most_apart: int, most_rows: int) -> Iterator[slice]:
    """Cuts rising places where it is better to begin a new read.

    Args:
        rising: [n] places.
        most_apart: a read goes on over a gap to the next place up to so many places further.
        most_rows: a read stays within one of the stretches [0, most_rows), [most_rows, ...), ...

    Yields:
        Slices of `rising` that cover it.
    """
    far = np.diff(rising) > most_apart
    cuts = np.flatnonzero(far | (np.diff(rising // most_rows) > 0)) + 1
    edges = [0, *cuts.tolist(), len(rising)]
    for low, high in zip(edges, edges[1:], strict=False):
        if low < high:
            yield slice(low, high)
