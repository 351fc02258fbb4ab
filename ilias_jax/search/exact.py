"""Exact inner-product search: the database is streamed past the queries once.

Scores and order are those of `topk` and do not depend on the number of devices or processes, the
length of blocks or the precision of the filter: the devices only choose the rows that are scored.
"""

import contextlib
import dataclasses
from collections.abc import Generator, Iterator
from typing import Any, ClassVar, Literal

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from ilias_jax.config import SearchConfig
from ilias_jax.embeddings.norms import check_norms
from ilias_jax.embeddings.sources import VectorSource, read_ahead
from ilias_jax.progress import track
from ilias_jax.search import topk
from ilias_jax.search.filter import GROUP, Precision, Product, choose_precision
from ilias_jax.search.scan import Scan
from ilias_jax.search.topk import Window

WINDOW_BYTES = 2**29  # of rows that wait together for exact scores; three such are in memory
SPARE_PLACES = 1024  # candidates of a query, beside twice k
_LOOK = 2  # groups in the first look by k: nearly all of the k best are in groups of their own


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
            scan = Scan(product, precise, queries, self.k, room, self._check, advance, look)
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
