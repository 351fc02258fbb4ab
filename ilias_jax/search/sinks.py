"""What is kept of scores: one sink for every part of the queries, served by several threads."""

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Protocol, TypeVar

import numpy as np

from ilias_jax.search.candidates import Approximate, Candidates
from ilias_jax.search.window import Window

QUERIES_AT_ONCE = 512  # of a part
T = TypeVar("T")


class Sink(Protocol):
    """What is kept of the scores of Q queries."""

    def start(self, bound: np.ndarray) -> None:
        """Called once at most, before all else, with scores [Q] that k rows are known to reach."""
        ...

    def threshold(self) -> np.ndarray:
        """[Q] float32: rows whose exact score is below need not be shown."""
        ...

    def crowded(self, found: Candidates, margin: np.ndarray, num_rows: int) -> np.ndarray:
        """[n] queries with more candidates among some rows than is good; margin is [Q]."""
        ...

    def tighten(self, queries: np.ndarray, scores: np.ndarray, margin: np.ndarray) -> None:
        """Shows some queries [n] all their approximate scores [n, R] of a block, margin [n]."""
        ...

    def add(self, found: Candidates, margin: np.ndarray, window: Window) -> None:
        """Takes rows of a window, whatever they cost; margin is [Q] and of their scores."""
        ...

    def settle(self, window: Window) -> None:
        """Called when the rows of a window are about to go."""
        ...


class Sinks:
    """The sinks of consecutive parts of `QUERIES_AT_ONCE` queries, as one.

    Args:
        sinks: of all parts.
        pool: its threads serve them.
    """

    def __init__(self, sinks: Sequence[Sink], pool: Executor) -> None:
        self._sinks, self._pool = sinks, pool

    def start(self, bound: np.ndarray) -> None:
        """As `Sink.start`."""
        self._each(lambda sink, part: sink.start(bound[part]))

    def threshold(self) -> np.ndarray:
        """As `Sink.threshold`."""
        return np.concatenate([sink.threshold() for sink in self._sinks])

    def crowded(self, found: Candidates, block: Approximate) -> np.ndarray:
        """As `Sink.crowded`, for the candidates of a block."""
        num_rows = block.scores.shape[1]

        def crowded(sink: Sink, part: slice) -> np.ndarray:
            return part.start + sink.crowded(found.of(part), block.margin[part], num_rows)

        return np.concatenate(self._each(crowded))

    def tighten(self, queries: np.ndarray, block: Approximate) -> None:
        """As `Sink.tighten`."""

        def tighten(sink: Sink, part: slice) -> None:
            chosen = queries[slice(*np.searchsorted(queries, [part.start, part.stop]))]
            if chosen.size:
                scores, margin = block.all_scores[chosen], block.margin[chosen]
                sink.tighten(chosen - part.start, scores, margin)

        self._each(tighten)

    def add(self, found: Candidates, margin: np.ndarray, window: Window) -> None:
        """As `Sink.add`."""
        self._each(lambda sink, part: sink.add(found.of(part), margin[part], window))

    def settle(self, window: Window) -> None:
        """As `Sink.settle`."""
        self._each(lambda sink, part: sink.settle(window))

    def _each(self, call: Callable[[Sink, slice], T]) -> list[T]:
        starts = range(0, len(self._sinks) * QUERIES_AT_ONCE, QUERIES_AT_ONCE)
        parts = [slice(start, start + QUERIES_AT_ONCE) for start in starts]
        return list(self._pool.map(call, self._sinks, parts))
