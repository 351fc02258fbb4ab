"""Exact inner-product search: the database is streamed past the queries once.

Two ways to ask, of one pass each: `search` finds the k best rows of every query, `count` the places
of given rows without any list. Scores and order are those of `pair_scores` and do not depend on the
number of devices, the length of blocks or the precision of the filter: the devices only choose the
rows that are scored.
"""

import contextlib
import dataclasses
import os
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from jax.sharding import Mesh

from ilias_jax.errors import UserError
from ilias_jax.norms import check_norms
from ilias_jax.progress import Advance, track
from ilias_jax.read_ahead import read_ahead
from ilias_jax.search.best_rows import BestRows
from ilias_jax.search.pair_scores import pair_scores
from ilias_jax.search.places import Places
from ilias_jax.search.precision import Filter, choose_precision
from ilias_jax.search.processes import add_places, merge_lists, own_rows
from ilias_jax.search.product import GROUP, Product
from ilias_jax.search.scan import Scan
from ilias_jax.search.sinks import QUERIES_AT_ONCE, Sink, Sinks
from ilias_jax.search.window import Window
from ilias_jax.sources import Range
from ilias_jax.vectors import VectorSource

WINDOW_BYTES = 2**29  # of rows that wait together for exact scores; three such are in memory
SPARE_PLACES = 1024  # for candidates of a query, beside twice k
_LOOK = 2  # groups in the first look by k: nearly all of the k best are in groups of their own


@dataclasses.dataclass(frozen=True)
class ExactSearch:
    """Exact search.

    Attributes:
        mesh: database rows are partitioned over its data axis.
        block_rows: database rows a device multiplies at one time, at most.
        filter: precision of the products that choose the rows to be scored exactly; "auto" for the
            faster one.
        quiet: whether to leave the progress to the caller, who searches many times.
        in_memory: whether the database is in memory, so that its blocks cost nothing to keep.
        shared: whether the processes of a distributed program share the rows. All of them call
            `search` and `count` alike then, and all get the same result.
        any_length: whether rows need not be L2-normalised; finite they must be.
    """

    mesh: Mesh
    block_rows: int
    filter: Filter = "auto"
    quiet: bool = False
    in_memory: bool = False
    shared: bool = False
    any_length: bool = False

    def open(self, database: VectorSource, k: int) -> "ExactIndex":
        """Makes the database searchable; nothing is read yet.

        Args:
            database: N rows of D channels.
            k: length of the lists that will be asked for, at least 1.
        """
        num_rows = database.num_rows()
        return ExactIndex(self, database, num_rows, min(k, num_rows))


@dataclasses.dataclass(frozen=True)
class ExactIndex:
    """A database that is streamed through the mesh for every search.

    Attributes:
        how: the settings.
        database: the rows.
        num_rows: N.
        k: length of the lists, at most N.
    """

    how: ExactSearch
    database: VectorSource
    num_rows: int
    k: int

    def facts(self) -> dict[str, int]:
        """What the report should know beside the configuration: nothing."""
        return {}

    def search(self, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Finds the k rows of largest inner product with every query.

        Args:
            queries: [Q, D] float16 or float32.

        Returns:
            Scores [Q, k] float32, falling, and database indices [Q, k] int32; equal scores keep
            the lower database index first.
        """
        room = 2 * self.k + SPARE_PLACES
        sinks = [BestRows(queries[part], self.k, room) for part in _parts(len(queries))]
        self._scan(queries, sinks)
        results = [sink.result() for sink in sinks]
        scores, rows = (np.concatenate(arrays) for arrays in zip(*results, strict=True))
        return merge_lists(scores, rows) if self.how.shared else (scores, rows)

    def count(
        self, queries: np.ndarray, query: np.ndarray, positive: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Finds the places of given rows in the rankings of given queries.

        Args:
            queries: [Q, D] float16 or float32.
            query: [n] int32 in [0, Q), not falling: the query of each pair.
            positive: [n] int32 in [0, N), the database index of each pair's row.

        Returns:
            Score [n] float32, at-or-above [n] int32 and rank [n] int32 as in `PositiveCounts`.
        """
        score = pair_scores(queries, self.database.rows(positive), query)
        sinks = []
        for part in _parts(len(queries)):
            mine = slice(*np.searchsorted(query, [part.start, part.stop]))
            local = query[mine] - part.start
            sinks.append(Places(queries[part], local, positive[mine], score[mine], self.k))
        self._scan(queries, sinks)
        results = [sink.result() for sink in sinks]
        at_or_above, rank = (np.concatenate(arrays) for arrays in zip(*results, strict=True))
        if self.how.shared:
            at_or_above, rank = add_places(at_or_above, rank, self.k)
        return score, at_or_above, rank

    def _scan(self, queries: np.ndarray, sinks: Sequence[Sink]) -> None:
        """Streams the whole database past the sinks."""
        how, dim = self.how, self.database.rows(np.zeros(1, np.int64)).shape[1]
        if queries.shape[1] != dim:
            raise UserError(
                f"queries have D = {queries.shape[1]} and the database has D = {dim} "
                f"({self.database.place_of(0)}); are they of one model?"
            )
        precision = choose_precision(how.mesh, how.filter, (len(queries), self.num_rows, dim))
        precise = Product.open(how.mesh, how.block_rows, queries, "float32")
        product = precise
        if precision != "float32":
            product = Product.open(how.mesh, how.block_rows, queries, precision)
        with self._progress() as advance, ThreadPoolExecutor(os.cpu_count()) as pool:
            look = _LOOK * GROUP * self.k
            if look * _LOOK > len(self._own_rows()):  # too few rows to be worth it
                look = 0
            scan = Scan(product, precise, Sinks(sinks, pool), self._check, advance, look, self.k)
            with contextlib.closing(self._windows(product, look)) as windows:
                scan.run(windows)

    def _windows(self, product: Product, look: int) -> Generator[Window, None, None]:
        """The whole database; the next window is read while the last one is searched.

        Rows that are in memory anyway can be scored whenever it suits, at the end.
        """
        row_bytes = self.database.rows(np.zeros(1, np.int64)).nbytes
        wanted = self.num_rows if self.how.in_memory else max(look, WINDOW_BYTES // row_bytes)
        own, step = self._own_rows(), product.rows_at_once
        source, first = self.database, own.start
        if len(own) < self.num_rows:
            source = Range(source, own.start, own.stop)
        blocks = source.blocks(max(1, -(-wanted // step)) * step)
        with contextlib.closing(read_ahead(blocks, 1)) as ahead:
            for vectors in ahead:
                yield Window(first, vectors)
                first += len(vectors)

    def _own_rows(self) -> range:
        """The rows that this process searches."""
        return own_rows(self.num_rows) if self.how.shared else range(self.num_rows)

    def _check(self, squares: np.ndarray, first_row: int) -> None:
        """Refuses rows that are not finite, or not of length 1."""
        if self.how.any_length:
            squares = np.where(np.isfinite(squares), np.float32(1), squares)
        check_norms(squares, first_row, self.database)

    def _progress(self) -> contextlib.AbstractContextManager[Advance]:
        if self.how.quiet:
            return contextlib.nullcontext(lambda count: None)
        return track("exact search", len(self._own_rows()))


def _parts(num_queries: int) -> list[slice]:
    """Consecutive queries that one sink takes."""
    starts = range(0, num_queries, QUERIES_AT_ONCE)
    return [slice(start, min(start + QUERIES_AT_ONCE, num_queries)) for start in starts]
