"""Exact inner-product search: the database is streamed past the queries once.

Scores and order are those of `topk` and do not depend on the number of devices or processes, the
length of blocks or the precision of the filter: the devices only choose the rows that are scored.
While they multiply a block, the host finds the candidates of the one before. Those wait until there
are enough of them to be worth a call of `BestRows`.
"""

import contextlib
import dataclasses
import functools
import os
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any, ClassVar, Literal, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from ilias_jax.config import SearchConfig
from ilias_jax.embeddings.sources import VectorSource, check_norms, read_ahead
from ilias_jax.progress import track
from ilias_jax.search import topk
from ilias_jax.search.filter import (
    GROUP,
    BlockScores,
    Candidates,
    PartitionScores,
    Precision,
    Product,
    choose_precision,
    find_candidates,
    merge,
)
from ilias_jax.search.topk import BestRows, Window

WINDOW_BYTES = 2**29  # of rows that wait together for exact scores; three such are in memory
SPARE_PLACES = 1024  # candidates of a query, beside twice k
_LOOK = 2  # groups in the first look by k: nearly all of the k best are in groups of their own
_QUERIES_AT_ONCE = 512  # of a `BestRows`
_ENOUGH = 64  # candidates of a query, on average: so many do not wait for more
_KEPT_BYTES = 2**29  # of the first scores, which are needed twice; those beyond are computed twice
T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class ExactSearch:
    """Exact search; see `config.SearchConfig`.

    Attributes:
        mesh: database rows are partitioned over its data axis.
        block_rows: database rows a device multiplies at one time, at most.
        filter: precision of the products that choose the rows to be scored exactly.
        shared: whether the processes of a distributed program share the rows. All of them call
            `search` alike then, and all get the same result.
        any_length: whether rows need not be L2-normalised; finite they must be.
    """

    is_exact: ClassVar[bool] = True
    can_share: ClassVar[bool] = True

    mesh: Mesh
    block_rows: int
    filter: Literal["auto"] | Precision = "auto"
    shared: bool = False
    any_length: bool = False

    @classmethod
    def create(
        cls, config: SearchConfig, *, mesh: Mesh, shared: bool, any_length: bool, **_: Any
    ) -> "ExactSearch":
        """The backend as configured; see `backends.Backend`."""
        return cls(mesh, config.block_rows, config.filter, shared, any_length)

    def open(self, database: VectorSource, k: int) -> "ExactIndex":
        """Makes the database of N rows searchable for lists of k >= 1; nothing is read yet."""
        num_rows = database.num_rows()
        return ExactIndex(self, database, num_rows, min(k, num_rows))


@dataclasses.dataclass(frozen=True)
class ExactIndex:
    """A database of N rows, streamed through the mesh for every search of lists of k <= N."""

    settings: ExactSearch
    database: VectorSource
    num_rows: int
    k: int

    def facts(self) -> dict[str, int]:
        """Nothing: the configuration says it all."""
        return {}

    def search(self, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The k best rows of queries [Q, D]; see `backends.Index`.

        Raises:
            UserError: a row is not finite or not normalised.
        """
        settings = self.settings
        shape = (len(queries), self.num_rows, queries.shape[1])
        precision = choose_precision(settings.mesh, settings.filter, shape)
        precise = Product.open(settings.mesh, settings.block_rows, queries, "float32")
        product = precise
        if precision != "float32":
            product = Product.open(settings.mesh, settings.block_rows, queries, precision)
        own = self._own_rows()
        look = _LOOK * GROUP * self.k
        if look * _LOOK > len(own):  # too few rows to be worth it
            look = 0
        room = 2 * self.k + SPARE_PLACES
        with (
            track("exact search", len(own)) as advance,
            contextlib.closing(self._windows(own, product, look)) as windows,
        ):
            scan = _Scan(product, precise, queries, self.k, room, self._check, advance, look)
            scores, rows = scan.run(windows)
        return _merge_processes(scores, rows) if settings.shared else (scores, rows)

    def _own_rows(self) -> range:
        """The neighbouring rows that this process searches; those of all together are all rows."""
        if not self.settings.shared:
            return range(self.num_rows)
        each = -(-self.num_rows // jax.process_count())
        start = min(self.num_rows, each * jax.process_index())
        return range(start, min(self.num_rows, start + each))

    def _windows(self, own: range, product: Product, look: int) -> Generator[Window, None, None]:
        """Those rows; the next window is read while the last one is searched."""
        row_bytes = self.database.rows(np.zeros(1, np.int64)).nbytes
        wanted, step = max(look, WINDOW_BYTES // row_bytes), product.rows_at_once
        first, size = own.start, max(1, -(-wanted // step)) * step
        blocks: Iterator[np.ndarray]
        if len(own) == self.num_rows:
            blocks = self.database.blocks(size)
        else:
            pieces = (own[start : start + size] for start in range(0, len(own), size))
            blocks = (self.database.rows(np.asarray(piece)) for piece in pieces)
        with contextlib.closing(read_ahead(blocks, 1)) as ahead:
            for vectors in ahead:
                yield Window(first, vectors)
                first += len(vectors)

    def _check(self, squares: np.ndarray, first_row: int) -> None:
        if self.settings.any_length:
            squares = np.where(np.isfinite(squares), np.float32(1), squares)
        check_norms(squares, range(first_row, first_row + len(squares)), self.database)


def _merge_processes(scores: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The best of all processes' lists [Q, k]; a collective, with the same result everywhere.

    Scores are -inf where a process has no more rows.
    """
    if jax.process_count() == 1:
        return scores, rows
    all_scores, all_rows = multihost_utils.process_allgather((scores, rows))
    keys = np.where(np.isneginf(all_scores), topk.LAST, topk.pack(all_scores, all_rows))
    merged = np.sort(np.concatenate(keys, axis=1), axis=1)[:, : scores.shape[1]]
    return topk.scores_of(merged), topk.rows_of(merged).astype(np.int32)


class _Collector:
    """`BestRows` of consecutive parts of the queries, served by the threads of a pool, as one."""

    def __init__(self, queries: np.ndarray, k: int, num_pending: int, pool: Executor) -> None:
        starts = range(0, len(queries), _QUERIES_AT_ONCE)
        self._parts = [slice(start, start + _QUERIES_AT_ONCE) for start in starts]
        self._best = [BestRows(queries[part], k, num_pending) for part in self._parts]
        self._pool = pool

    def start(self, bound: np.ndarray) -> None:
        self._each(lambda best, part: best.start(bound[part]))

    def threshold(self) -> np.ndarray:
        return np.concatenate([best.threshold() for best in self._best])

    def crowded(self, found: Candidates) -> np.ndarray:
        return np.concatenate(
            self._each(lambda best, part: part.start + best.crowded(found.of(part)))
        )

    def tighten(self, queries: np.ndarray, block: PartitionScores) -> None:
        def tighten(best: BestRows, part: slice) -> None:
            chosen = queries[slice(*np.searchsorted(queries, [part.start, part.stop]))]
            if chosen.size:
                scores, margin = block.all_scores[chosen], block.margin[chosen]
                best.tighten(chosen - part.start, scores, margin)

        self._each(tighten)

    def add(self, found: Candidates, margin: np.ndarray, window: Window) -> None:
        self._each(lambda best, part: best.add(found.of(part), margin[part], window))

    def settle(self, window: Window) -> None:
        self._each(lambda best, part: best.settle(window))

    def result(self) -> tuple[np.ndarray, np.ndarray]:
        scores, rows = zip(*(best.result() for best in self._best), strict=True)
        return np.concatenate(scores), np.concatenate(rows)

    def _each(self, call: Callable[[BestRows, slice], T]) -> list[T]:
        return list(self._pool.map(call, self._best, self._parts))


@dataclasses.dataclass(frozen=True, eq=False)
class _Block:
    """Rows [n, D] of a window and a product's answer, which may still be on its way."""

    window: Window
    first_row: int
    rows: np.ndarray
    product: Product
    answer: BlockScores

    @functools.cached_property
    def squares(self) -> np.ndarray:
        """[n] float32 sums of squares of the rows; waits for them."""
        return jax.device_get(self.answer.squares).ravel()[: len(self.rows)]

    @functools.cached_property
    def partitions(self) -> list[PartitionScores]:
        """The scores of every device that has real rows; waits for them."""
        rounding, maxima = jax.device_get((self.answer.rounding, self.answer.maxima))
        norm = float(np.sqrt(self.squares.max()))
        with np.errstate(invalid="ignore"):  # NaN finds nothing, and such rows are refused soon
            margin = self.product.margin(norm, float(rounding.max()))
        size = self.product.block_rows
        used = range(-(-len(self.rows) // size))
        scores = self.answer.scores_by_partition()
        first = self.first_row
        return [PartitionScores(scores[p], maxima[p], margin, first + p * size) for p in used]

    def again(self, product: Product) -> "_Block":
        return dataclasses.replace(self, product=product, answer=product.multiply(self.rows))


@dataclasses.dataclass
class _Scan:
    """One pass over a database.

    Attributes:
        product: of the filter's precision.
        precise: of float32; takes the queries that the filter leaves with too many candidates, and
            all of them from the block on where that happens to more than half.
        queries, k, num_pending: see `BestRows`.
        check: see `ExactIndex._check`.
        advance: is told how many rows are done.
        look: rows at the start that are looked at beforehand, for the scores that the k best will
            reach; 0 for none, else at least `GROUP` times k.
    """

    product: Product
    precise: Product
    queries: np.ndarray
    k: int
    num_pending: int
    check: Callable[[np.ndarray, int], None]
    advance: Callable[[int], None]
    look: int

    def run(self, windows: Iterable[Window]) -> tuple[np.ndarray, np.ndarray]:
        self._waiting: list[Candidates] = []
        self._margin = np.zeros(len(self.queries), np.float32)  # of those that wait
        self._enough = _ENOUGH * len(self.queries)
        self._unchecked: list[np.ndarray] = []
        self._checked = 0  # all rows before it are
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            self._collector = _Collector(self.queries, self.k, self.num_pending, pool)
            self._show_all(windows)
            return self._collector.result()

    def _show_all(self, windows: Iterable[Window]) -> None:
        last: Window | None = None
        for block in self._one_ahead(windows):
            if last is None:
                self._checked = block.first_row
            elif last is not block.window:
                self._leave(last)
            self._show(block)
            self.advance(len(block.rows))
            last = block.window
        if last is not None:
            self._leave(last)

    def _one_ahead(self, windows: Iterable[Window]) -> Iterator[_Block]:
        """Yields the blocks, each after the product of the one behind it was started."""
        waiting: _Block | None = None
        looked_at: dict[int, _Block] | None = None
        for window in windows:
            if looked_at is None:
                looked_at = self._look_first(window)
            for start in range(0, len(window.vectors), self.product.rows_at_once):
                block = looked_at.pop(start, None) or self._multiply(window, start)
                if waiting is not None:
                    yield waiting
                waiting = block
        if waiting is not None:
            yield waiting

    def _multiply(self, window: Window, start: int) -> _Block:
        rows = window.vectors[start : start + self.product.rows_at_once]
        answer = self.product.multiply(rows)
        return _Block(window, window.first_row + start, rows, self.product, answer)

    def _look_first(self, window: Window) -> dict[int, _Block]:
        """Tells the collector what the k-th best score is at least.

        Without it nearly all of the first rows are candidates. The maxima of groups are scores of
        different rows, so that k of them, each less its margin, are reached by k rows. Returns, by
        their first row in the window, the blocks whose scores are kept, up to `_KEPT_BYTES`.
        """
        lower, kept, room = [], {}, _KEPT_BYTES
        for start in range(0, self.look, self.product.rows_at_once):
            block = self._multiply(window, start)
            lower += [part.maxima - part.margin[:, None] for part in block.partitions]
            room -= block.answer.scores.nbytes
            if room >= 0:
                kept[start] = block
        if lower:
            known = np.concatenate(lower, axis=1)
            column = known.shape[1] - self.k
            self._collector.start(np.partition(known, column, axis=1)[:, column])
        return kept

    def _show(self, block: _Block) -> None:
        """Finds the candidates of a block; many are served at once, few wait for more."""
        self._unchecked.append(block.squares)
        found = [self._find(part) for part in block.partitions]
        if sum(len(pairs.query) for pairs in found) > self._enough:
            self._serve(block.window)
            self._show_crowd(block)
            return
        for pairs, part in zip(found, block.partitions, strict=True):
            self._wait(pairs, part.margin)
        if sum(len(pairs.query) for pairs in self._waiting) > self._enough:
            self._serve(block.window)

    def _show_crowd(self, block: _Block) -> None:
        """Serves a block that has many candidates: for crowded queries, with better scores."""
        num_crowded, better = 0, block
        for number, part in enumerate(block.partitions):
            found = self._find(part)
            if (crowded := self._collector.crowded(found)).size:
                self._collector.tighten(crowded, part)
                found = self._find(part)
                crowded = self._collector.crowded(found)
            self._wait(found.without(crowded), part.margin)
            self._serve(block.window)
            if crowded.size and block.product is not self.precise:
                better = block.again(self.precise) if better is block else better
                part = better.partitions[number]
            self._wait(self._find(part).only(crowded), part.margin)
            self._serve(block.window)
            num_crowded += len(crowded)
        if 2 * num_crowded > len(self._margin) * len(block.partitions):
            self.product = self.precise

    def _find(self, part: PartitionScores) -> Candidates:
        return find_candidates(part, self._collector.threshold() - part.margin)

    def _wait(self, found: Candidates, margin: np.ndarray) -> None:
        self._waiting.append(found)
        self._margin = np.maximum(self._margin, margin)

    def _serve(self, window: Window) -> None:
        """Checks the rows that were shown, and gives the candidates that wait to the collector."""
        if self._unchecked:
            squares = np.concatenate(self._unchecked)
            self.check(squares, self._checked)
            self._checked += len(squares)
        if self._waiting:
            self._collector.add(merge(self._waiting), self._margin, window)
        self._unchecked, self._waiting = [], []
        self._margin = np.zeros_like(self._margin)

    def _leave(self, window: Window) -> None:
        self._serve(window)
        self._collector.settle(window)
