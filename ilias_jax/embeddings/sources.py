"""Rows of vectors with ids, wherever they are kept; sources made of others, and reading ahead.

Scores mean nothing unless every vector is finite and L2-normalised; `check_norms` says so.
"""

import abc
import collections
import dataclasses
import functools
import itertools
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, TypeVar

import numpy as np

from ilias_jax.errors import UserError

T = TypeVar("T")
# One tolerance for every dtype: vectors normalised in bfloat16 differ from length 1 by up to 0.008
# (norm and quotient are each rounded by up to 2^-8), in float16 by up to 0.001, and the dtype that
# they are stored in does not say which it was. Vectors that nobody has normalised are far off.
LENGTH_TOLERANCE = 0.01
_NORMS_AT_ONCE = 256  # rows; as float32 they stay in cache
_ROWS_AT_ONCE = 8192  # however long the blocks are that the search asks for


class VectorSource(Protocol):
    """N vectors of one length in a fixed order."""

    def num_rows(self) -> int:
        """N."""

    def ids(self) -> list[str]:
        """All N ids in row order."""

    def vectors(self) -> np.ndarray:
        """All rows at once, [N, D] float16 or float32."""

    def rows(self, indices: np.ndarray) -> np.ndarray:
        """Any rows, repeated or not, as [..., D] for indices [...] in [0, N)."""

    def blocks(self, num_rows: int) -> Iterator[np.ndarray]:
        """Yields all rows in order as blocks [num_rows, D]; the last one may be shorter."""

    def place_of(self, row: int) -> str:
        """Where a row in [0, N) is kept, for messages: file, row of the file and id."""


def regroup(pieces: Iterable[np.ndarray], num_rows: int) -> Iterator[np.ndarray]:
    """Yields the rows of pieces [n, D] in order as blocks [num_rows, D]; the last may be shorter.

    Pieces without a row are skipped, whatever their D.
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
    """A part that is alone is not copied."""
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def read_ahead(items: Iterable[T], depth: int) -> Generator[T, None, None]:
    """Yields the items of an iterable, which a thread reads up to `depth` items ahead.

    The thread begins with the first item that is asked for and has ended when the generator has:
    at the end, on an error of either side, or when it is closed. A read that is under way then is
    waited for. Neither side keeps an item that it has handed on.

    Args:
        items: read on one other thread, their errors raised here; a generator is closed there.
        depth: at least 1, items that are read or being read beside those the caller has.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="read ahead") as pool:
        iterator = pool.submit(iter, items).result()

        def read() -> list[T]:
            return list(itertools.islice(iterator, 1))

        entries = collections.deque(pool.submit(read) for _ in range(depth))
        try:
            while entry := entries.popleft().result():
                entries.append(pool.submit(read))
                yield entry.pop()
        finally:
            for future in entries:
                future.cancel()
            if isinstance(iterator, Generator):
                pool.submit(iterator.close)


def gather(
    indices: np.ndarray, num_rows: int, read: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """Rows [..., D] at any indices [...], from a function that reads rising ones alone.

    Args:
        indices: in [0, num_rows), repeated or not, in any order; others raise IndexError.
        num_rows: N.
        read: rising indices [n], each once -> rows [n, D].
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
    """Splits rising indices [n] in [0, N) by the part of a sequence that holds them.

    `starts` are the index of every part's first row, and N. Yields part and the slice of `rising`
    that lies in it; parts that hold none are left out.
    """
    ends = np.searchsorted(rising, starts)
    for part, (low, high) in enumerate(zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True)):
        if low < high:
            yield part, slice(low, high)


def runs(rising: np.ndarray, most_apart: int, most_rows: int) -> Iterator[slice]:
    """Cuts rising rows [n] where it is better to begin a new read; yields slices that cover them.

    A read goes on over a gap to the next row up to `most_apart` further, and stays within one of
    the stretches [0, most_rows), [most_rows, 2 * most_rows), ...
    """
    far = np.diff(rising) > most_apart
    cuts = np.flatnonzero(far | (np.diff(rising // most_rows) > 0)) + 1
    edges = [0, *cuts.tolist(), len(rising)]
    for low, high in zip(edges, edges[1:], strict=False):
        if low < high:
            yield slice(low, high)


class Derived(abc.ABC):
    """What sources made of others share: any rows and all rows follow from reading rising ones."""

    @abc.abstractmethod
    def num_rows(self) -> int:
        """N."""

    @abc.abstractmethod
    def _read(self, wanted: np.ndarray) -> np.ndarray:
        """The rows of rising indices [n], [n, D]."""

    def vectors(self) -> np.ndarray:
        return self._read(np.arange(self.num_rows()))

    def rows(self, indices: np.ndarray) -> np.ndarray:
        return gather(indices, self.num_rows(), self._read)


@dataclasses.dataclass(frozen=True)
class Concatenated(Derived):
    """Several sources as one sequence of rows; float32 if any part with a wanted row is."""

    parts: Sequence[VectorSource]

    @functools.cached_property
    def _starts(self) -> list[int]:
        return list(itertools.accumulate((part.num_rows() for part in self.parts), initial=0))

    def num_rows(self) -> int:
        return self._starts[-1]

    def ids(self) -> list[str]:
        return [name for part in self.parts for name in part.ids()]

    def ids_at(self, rows: np.ndarray) -> list[str]:
        """The ids of rising rows [n] in [0, N); the ids of one part are in memory at a time."""
        found: list[str] = []
        for part, taken in split(rows, self._starts):
            names = self.parts[part].ids()
            found += [names[row] for row in rows[taken] - self._starts[part]]
        return found

    def place_of(self, row: int) -> str:
        part = int(np.searchsorted(self._starts, row, side="right")) - 1
        return self.parts[part].place_of(row - self._starts[part])

    def _read(self, wanted: np.ndarray) -> np.ndarray:
        found = [
            self.parts[part].rows(wanted[taken] - self._starts[part])
            for part, taken in split(wanted, self._starts)
        ]
        return np.concatenate(found) if found else np.zeros((0, 0), np.float32)

    def blocks(self, num_rows: int) -> Iterator[np.ndarray]:
        return regroup((b for part in self.parts for b in part.blocks(num_rows)), num_rows)


@dataclasses.dataclass(frozen=True, eq=False)
class Selected(Derived):
    """The rows of a source of M rows for which kept [M] bool is true, in its order."""

    source: VectorSource
    kept: np.ndarray

    def num_rows(self) -> int:
        return int(np.count_nonzero(self.kept))

    def ids(self) -> list[str]:
        return list(itertools.compress(self.source.ids(), self.kept))

    def place_of(self, row: int) -> str:
        return self.source.place_of(int(np.flatnonzero(self.kept)[row]))

    def _read(self, wanted: np.ndarray) -> np.ndarray:
        return self.source.rows(np.flatnonzero(self.kept)[wanted])

    def blocks(self, num_rows: int) -> Iterator[np.ndarray]:
        return regroup(self._pieces(), num_rows)

    def _pieces(self) -> Iterator[np.ndarray]:
        start = 0
        for block in self.source.blocks(_ROWS_AT_ONCE) if self.kept.any() else ():
            yield block[self.kept[start : start + len(block)]]
            start += len(block)


@dataclasses.dataclass(frozen=True)
class SameRows(Derived):
    """A source with the N rows, ids and places of another one."""

    source: VectorSource

    def num_rows(self) -> int:
        return self.source.num_rows()

    def ids(self) -> list[str]:
        return self.source.ids()

    def place_of(self, row: int) -> str:
        return self.source.place_of(row)


@dataclasses.dataclass(frozen=True)
class Mapped(SameRows):
    """A source whose vectors go through a function [n, D] -> [n, d] float32, a row at a time.

    In blocks it is always given the same rows together, so that their length changes no bit.
    """

    apply: Callable[[np.ndarray], np.ndarray]

    def _read(self, wanted: np.ndarray) -> np.ndarray:
        return self.apply(self.source.rows(wanted))

    def blocks(self, num_rows: int) -> Iterator[np.ndarray]:
        return regroup(self._pieces(), num_rows)

    def _pieces(self) -> Iterator[np.ndarray]:
        return map(self.apply, self.source.blocks(_ROWS_AT_ONCE))


def check_norms(squares: np.ndarray, rows: range | np.ndarray, source: VectorSource) -> None:
    """Raises UserError if a row is not finite or not of length 1, by `LENGTH_TOLERANCE`.

    `squares` [n] float32 are the sums of squares of the rows [n] of the source.
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
        for start in range(0, len(rows), _NORMS_AT_ONCE):
            part = np.asarray(rows[start : start + _NORMS_AT_ONCE], np.float32)
            squares[start : start + _NORMS_AT_ONCE] = np.vecdot(part, part)
    return squares


@dataclasses.dataclass(frozen=True)
class Checked(SameRows):
    """A source whose rows are checked on the host, by `check_norms`, whenever they are read.

    For what looks at the rows on the host, such as an adapter, whose output is normalised whatever
    it was given. A search has the norms on the device already.
    """

    def _read(self, wanted: np.ndarray) -> np.ndarray:
        rows = self.source.rows(wanted)
        check_norms(squared_norms(rows), wanted, self.source)
        return rows

    def blocks(self, num_rows: int) -> Iterator[np.ndarray]:
        return map(self._passed, self.source.blocks(num_rows), itertools.count(0, num_rows))

    def _passed(self, block: np.ndarray, first_row: int) -> np.ndarray:
        check_norms(squared_norms(block), range(first_row, first_row + len(block)), self.source)
        return block
