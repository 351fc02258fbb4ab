"""ScaNN's partitioned index (Guo et al., 2020) behind the methods of exact search.

An index is built in as many parts as the memory needs, kept in a folder, and searched part by part.
It holds codes alone; the candidates of all parts are merged by ScaNN's approximate scores, then
scored exactly from the database's own rows.
"""

import contextlib
import dataclasses
import tempfile
import weakref
from typing import Any

import numpy as np
from etils import epath

from ilias_jax.config import ScannConfig
from ilias_jax.errors import UserError
from ilias_jax.search import keys
from ilias_jax.search.list_scores import best_of_lists
from ilias_jax.search.scann_folder import IndexFolder, open_folder
from ilias_jax.search.scann_plan import MIN_ROWS, Plan, make_plan
from ilias_jax.vectors import VectorSource

_QUERIES_AT_ONCE = 128  # a thread of ScaNN takes; more leave threads idle at the end


@dataclasses.dataclass(frozen=True)
class ScannSearch:
    """Approximate search in a partitioned index.

    Attributes:
        config: how the index is built and searched.
        folder: keeps indexes, each in a folder of its own, for later runs; None for a temporary
            folder that goes with the index.
        origin: text that no other database has, such as its lineage; needed with `folder`.
    """

    config: ScannConfig
    folder: epath.Path | None = None
    origin: str = ""

    def open(self, database: VectorSource, k: int) -> "ScannIndex":
        """Builds what is not there yet; one part of the database is in memory at a time.

        Args:
            database: N rows of D channels.
            k: length of the lists that will be asked for.

        Raises:
            UserError: `num_leaves` exceeds the rows of a part, `memory_gb` is too small, a row is
                not finite, or the folder holds what is no part of this index.
        """
        if self.folder is not None and not self.origin:
            raise ValueError("an index that is kept needs the origin of its database")
        num_rows = database.num_rows()
        dim = database.rows(np.zeros(1, np.int64)).shape[1]
        k = min(k, num_rows)
        plan = make_plan(self.config, num_rows, dim, k)
        if num_rows < MIN_ROWS:
            return ScannIndex(database, plan, k, None, held={})
        with contextlib.ExitStack() as stack:
            parent = self.folder
            if parent is None:
                parent = epath.Path(stack.enter_context(tempfile.TemporaryDirectory()))
            files = open_folder(parent, self.config, plan, self.origin)
            files.build(database, self.config)
            held: dict[int, Any] | None = (
                {} if files.num_bytes() <= self.config.memory_gb * 1e9 else None
            )
            index = ScannIndex(database, plan, k, files, held)
            weakref.finalize(index, stack.pop_all().close)  # a temporary folder goes with the index
        return index


@dataclasses.dataclass
class ScannIndex:
    """A built index.

    Attributes:
        database: the rows.
        plan: parts and leaves; a search that finds too few rows raises the number of leaves to
            search, unless it is the user's.
        k: length of the lists, at most N.
        files: the parts; None for a database so small that all rows are looked at.
        held: parts that were loaded; None if all do not fit into the memory, and each is loaded
            for every search.
    """

    database: VectorSource
    plan: Plan
    k: int
    files: IndexFolder | None
    held: dict[int, Any] | None

    def facts(self) -> dict[str, int]:
        """What was really built and searched, for the report."""
        plan = self.plan
        return {
            "num_parts": plan.num_parts,
            "num_leaves": plan.num_leaves,
            "num_leaves_to_search": plan.num_leaves_to_search,
            "num_candidates": plan.num_candidates,
            "index_bytes": self.files.num_bytes() if self.files else 0,
        }

    def search(self, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Finds about the k rows of largest inner product with every query.

        Args:
            queries: [Q, D] float16 or float32.

        Returns:
            Scores [Q, k] float32, falling, and database indices [Q, k] int32, as
            `ExactIndex.search`. Scores are exact for the rows that were found.

        Raises:
            UserError: the leaves that `num_leaves_to_search` asks for hold fewer than k rows for
                some query. A list is never filled up with rows that the index did not find.
        """
        while True:
            visited, leaves = self.plan.num_leaves_to_search, self.plan.num_leaves
            rows = self._candidates(queries, visited)
            found = (rows >= 0).sum(axis=1).min(initial=self.k)
            if found == self.k:
                return best_of_lists(queries, rows, self.database, self.k)
            if self.plan.fixed or visited == leaves:
                raise UserError(
                    f"search.scann.num_leaves_to_search={visited} of {leaves} leaves gives {found} "
                    f"rows for some query, fewer than k={self.k}; raise it or leave it 0"
                )
            more = min(2 * visited, leaves)
            self.plan = dataclasses.replace(self.plan, num_leaves_to_search=more)

    def search_leaves(self, queries: np.ndarray, visited: int) -> tuple[np.ndarray, np.ndarray]:
        """As `search`, but visits so many leaves of every part, and no more where they are too few.

        Returns:
            Scores and indices as those of `search`; -inf and -1 behind a list that is shorter.
        """
        rows = self._candidates(queries, min(visited, self.plan.num_leaves))
        return best_of_lists(queries, rows, self.database, self.k)

    def _candidates(self, queries: np.ndarray, visited: int) -> np.ndarray:
        """Candidates [Q, n] of all parts with n >= k, in no order; -1 where there are fewer."""
        plan = self.plan
        if self.files is None:
            return np.broadcast_to(np.arange(plan.num_rows), (len(queries), plan.num_rows))
        queries = np.ascontiguousarray(queries, np.float32)
        if plan.num_parts == 1:
            scores, rows = self._search_part(queries, 0, visited)
            return _padded(np.where(np.isnan(scores), -1, rows), self.k)
        best = np.full((len(queries), plan.num_candidates), keys.LAST)
        for part in range(plan.num_parts):
            scores, rows = self._search_part(queries, part, visited)
            found = np.where(np.isnan(scores), keys.LAST, keys.pack(scores, rows))
            merged = np.concatenate([best, found], axis=1)
            best = np.partition(merged, best.shape[1] - 1, axis=1)[:, : best.shape[1]]
        return np.where(best == keys.LAST, -1, keys.rows_of(best))

    def _search_part(
        self, queries: np.ndarray, part: int, visited: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Approximate scores [Q, n], NaN where there are fewer rows, and database indices int64."""
        start, end = self.plan.bounds(part)
        rows, scores = self._part(part).search_batched_parallel(
            queries,
            final_num_neighbors=min(self.plan.num_candidates, end - start),
            leaves_to_search=visited,
            batch_size=_QUERIES_AT_ONCE,
        )
        # ScaNN pads short lists with NaN scores, and all lists to the longest one.
        return scores, rows.astype(np.int64) + start

    def _part(self, part: int) -> Any:
        assert self.files is not None
        if self.held is None:
            return self.files.load(part)
        if part not in self.held:
            self.held[part] = self.files.load(part)
        return self.held[part]


def _padded(rows: np.ndarray, k: int) -> np.ndarray:
    """Lists of at least k, with -1 behind shorter ones."""
    short = max(0, k - rows.shape[1])
    return np.pad(rows, ((0, 0), (0, short)), constant_values=-1)
