"""Streams a database past the queries: approximate scores from the devices, the rest on the host.

While the devices multiply a block, the host looks at the one before. Queries are cut into parts
that have nothing to do with each other, so that several threads can look.
"""

import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import jax
import numpy as np

from ilias_jax.search.candidates import Approximate
from ilias_jax.search.product import Answer, Product
from ilias_jax.search.window import Window

QUERIES_AT_ONCE = 512  # of a part


class Sink(Protocol):
    """What is kept of the scores of some queries."""

    def start(self, bound: np.ndarray) -> None:
        """Called once at most, before all else, with scores [n] that k rows are known to reach."""
        ...

    def add(
        self, block: Approximate, window: Window, again: np.ndarray | None = None
    ) -> np.ndarray:
        """Takes a block; returns the queries for which better scores are needed."""
        ...

    def settle(self, window: Window) -> None:
        """Called when the rows of a window are about to go."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class _Block:
    """Rows of a window and their scores, which may still be on their way.

    Attributes:
        window: it is of.
        first_row: database index of the first.
        rows: [n, D].
        product: that was asked.
        answer: of the product.
    """

    window: Window
    first_row: int
    rows: np.ndarray
    product: Product
    answer: Answer

    def partitions(self) -> list[Approximate]:
        """The scores of every device that has real rows; waits for them."""
        answer, size = self.answer, self.product.block_rows
        squares, rounding = jax.device_get((answer.squares, answer.rounding))
        margin = self.product.margin(float(np.sqrt(squares.max())), float(rounding.max()))
        scores, maxima = jax.device_get((answer.scores, answer.maxima))
        used = range(-(-len(self.rows) // size))
        return [Approximate(scores[p], maxima[p], margin, self.first_row + p * size) for p in used]


class Scan:
    """One pass over a database.

    Args:
        product: of the filter's precision.
        precise: of float32; takes the queries that the filter leaves with too many candidates, and
            all of them from the block on where that happens to more than half.
        sinks: of consecutive parts of `QUERIES_AT_ONCE` queries.
        check: is given the sums of squares [n] float32 of rows and the database index of the first,
            and raises if a row may not be searched.
        advance: is told how many rows are done.
        look: rows at the start of the database that are looked at beforehand, for the scores that
            the k best will reach; 0 for none, else at least `GROUP` times k.
        k: see `look`.
    """

    def __init__(
        self,
        product: Product,
        precise: Product,
        sinks: Sequence[Sink],
        check: Callable[[np.ndarray, int], None],
        advance: Callable[[int], None],
        look: int = 0,
        k: int = 1,
    ) -> None:
        self._look, self._k = look, k
        self._product, self._precise, self._sinks = product, precise, sinks
        self._check, self._advance = check, advance
        self._pool = ThreadPoolExecutor(min(len(sinks), os.cpu_count() or 1))

    def run(self, windows: Iterable[Window]) -> None:
        """Shows all rows to all sinks."""
        last: Window | None = None
        with self._pool:
            for block in self._one_ahead(windows):
                if last is None and self._look:
                    self._look_first(block.window)
                if last is not None and last is not block.window:
                    self._settle(last)
                self._show(block)
                self._advance(len(block.rows))
                last = block.window
            if last is not None:
                self._settle(last)

    def _one_ahead(self, windows: Iterable[Window]) -> Iterator[_Block]:
        """Yields the blocks, each after the product of the one behind it was started."""
        waiting: _Block | None = None
        for window in windows:
            for start in range(0, len(window.vectors), self._product.rows_at_once):
                rows = window.vectors[start : start + self._product.rows_at_once]
                block = _multiply(window, window.first_row + start, rows, self._product)
                if waiting is not None:
                    yield waiting
                waiting = block
        if waiting is not None:
            yield waiting

    def _look_first(self, window: Window) -> None:
        """Tells the sinks what the k-th best score is at least.

        Without it nearly all of the first rows are candidates. The maxima of groups are scores of
        different rows, so that k of them, each less its margin, are reached by k rows.
        """
        step = self._product.rows_at_once
        lower = []
        for start in range(0, self._look, step):
            rows = window.vectors[start : min(start + step, self._look)]
            block = _multiply(window, window.first_row + start, rows, self._product)
            self._check_rows(block)
            lower += [part.maxima - part.margin[:, None] for part in block.partitions()]
        known = np.concatenate(lower, axis=1)
        place = known.shape[1] - self._k
        bound = np.partition(known, place, axis=1)[:, place]
        for number, sink in enumerate(self._sinks):
            sink.start(bound[number * QUERIES_AT_ONCE :][:QUERIES_AT_ONCE])

    def _check_rows(self, block: _Block) -> None:
        squares = jax.device_get(block.answer.squares).ravel()[: len(block.rows)]
        self._check(squares, block.first_row)

    def _show(self, block: _Block) -> None:
        """Shows a block to all sinks, and once more to those that ask for better scores."""
        self._check_rows(block)
        nobody = [None] * len(self._sinks)
        again, num_left = block, 0
        for number, part in enumerate(block.partitions()):
            left = self._add(part, block.window, nobody)
            num_left += (count := sum(queries.size for queries in left))
            if count and again.product is not self._precise:
                again = _multiply(block.window, block.first_row, block.rows, self._precise)
            if count:
                self._add(again.partitions()[number], block.window, left)
        if 2 * num_left > len(self._product.query_norms) * len(block.partitions()):
            self._product = self._precise

    def _add(
        self, part: Approximate, window: Window, again: Sequence[np.ndarray | None]
    ) -> list[np.ndarray]:
        """Shows a partition's scores; returns for every sink the queries that it did not serve."""

        def add(number: int) -> np.ndarray:
            start = number * QUERIES_AT_ONCE
            queries = slice(start, start + QUERIES_AT_ONCE)
            return self._sinks[number].add(part.of(queries), window, again[number])

        return list(self._pool.map(add, range(len(self._sinks))))

    def _settle(self, window: Window) -> None:
        list(self._pool.map(lambda sink: sink.settle(window), self._sinks))


def _multiply(window: Window, first_row: int, rows: np.ndarray, product: Product) -> _Block:
    return _Block(window, first_row, rows, product, product.multiply(rows))
