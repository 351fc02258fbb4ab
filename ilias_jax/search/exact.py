"""Exact inner-product search: the database is streamed past the queries once.

Two ways to ask, of one pass each: `search` finds the k best rows of every query, `count` the places
of given rows without any list. Scores and order are those of `pair_scores` and do not depend on the
number of devices, the length of blocks or the precision of the filter: the devices only choose the
rows that are scored.
"""

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
from jax.sharding import Mesh

from ilias_jax.errors import UserError
from ilias_jax.progress import Advance, track
from ilias_jax.search.best_rows import BestRows
from ilias_jax.search.pair_scores import pair_scores
from ilias_jax.search.places import Places
from ilias_jax.search.product import Precision, Product
from ilias_jax.search.scan import QUERIES_AT_ONCE, Scan, Sink
from ilias_jax.search.window import Window
from ilias_jax.vectors import VectorSource

_WINDOW_BYTES = 2**29  # of rows in memory together; a few windows are


@dataclasses.dataclass(frozen=True)
class ExactSearch:
    """Exact search.

    Attributes:
        mesh: database rows are partitioned over its data axis.
        block_rows: database rows a device holds at one time.
        precision: of the products that choose the rows to be scored.
        quiet: whether to leave the progress to the caller, who searches many times.
    """

    mesh: Mesh
    block_rows: int
    precision: Precision = "bfloat16"
    quiet: bool = False

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
        room = 2 * self.k + 2048
        sinks = [BestRows(queries[part], self.k, room) for part in _parts(len(queries))]
        self._scan(queries, sinks)
        results = [sink.result() for sink in sinks]
        scores, rows = (np.concatenate(arrays) for arrays in zip(*results, strict=True))
        return scores, rows

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
        return score, at_or_above, rank

    def _scan(self, queries: np.ndarray, sinks: Sequence[Sink]) -> None:
        """Streams the whole database past the sinks."""
        how = self.how
        product = Product.open(how.mesh, how.block_rows, queries, how.precision)
        precise = product
        if how.precision != "float32":
            precise = Product.open(how.mesh, how.block_rows, queries, "float32")
        with self._progress() as advance:
            scan = Scan(product, precise, sinks, self._check, advance)
            scan.run(self._windows(product.rows_at_once))

    def _windows(self, step: int) -> Iterator[Window]:
        first = 0
        row_bytes = self.database.rows(np.zeros(1, np.int64)).nbytes
        length = max(1, _WINDOW_BYTES // (row_bytes * step)) * step
        for vectors in self.database.blocks(length):
            yield Window(first, vectors)
            first += len(vectors)

    def _check(self, norms: np.ndarray, first_row: int) -> None:
        bad = np.flatnonzero(~np.isfinite(norms))
        if bad.size:
            row = int(bad[0]) + first_row
            raise UserError(f"{self.database.place_of(row)}: the vector is not finite")

    def _progress(self) -> contextlib.AbstractContextManager[Advance]:
        if self.how.quiet:
            return contextlib.nullcontext(lambda count: None)
        return track("exact search", self.num_rows)


def _parts(num_queries: int) -> list[slice]:
    """Consecutive queries that one sink takes."""
    starts = range(0, num_queries, QUERIES_AT_ONCE)
    return [slice(start, min(start + QUERIES_AT_ONCE, num_queries)) for start in starts]
