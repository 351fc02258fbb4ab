"""The search of a section: the database as configured, its indexes, and expanded queries.

In this order: adapter, database averaging, search, query expansion, search again.
"""

import dataclasses
import functools

import jax
import numpy as np
from etils import epath

from ilias_jax.config import BenchmarkConfig
from ilias_jax.positive_counts import PositiveCounts
from ilias_jax.ranking import Ranking
from ilias_jax.rerank.database_averaging import average_database, check_memory
from ilias_jax.rerank.query_expansion import expand_queries
from ilias_jax.retrieval.databases import MemoryDatabase, to_memory
from ilias_jax.retrieval.sections import Section
from ilias_jax.search.exact import ExactIndex, ExactSearch
from ilias_jax.search.scann import ScannIndex, ScannSearch
from ilias_jax.search.sweep import sweep
from ilias_jax.sources import Mapped
from ilias_jax.timings import Timings
from ilias_jax.vectors import VectorSource


@dataclasses.dataclass(frozen=True)
class _Opened:
    """A database that is ready to be searched.

    Attributes:
        source: as it was given.
        database: the same, or its average.
        indexes: by name of the backend.
    """

    source: VectorSource
    database: VectorSource
    indexes: dict[str, ExactIndex | ScannIndex]


class Engine:
    """Searches databases one at a time: the one before is let go when another is asked for.

    Attributes:
        backends: names of those that search.
    """

    def __init__(
        self,
        config: BenchmarkConfig,
        mesh: jax.sharding.Mesh,
        timings: Timings,
        index_folder: epath.Path | None = None,
        is_shared: bool = False,
    ) -> None:
        self._is_shared = is_shared
        self._config, self._mesh, self._timings = config, mesh, timings
        self._index_folder = index_folder
        self._first: dict[str, np.ndarray] = {}  # database indices before any query expansion
        self._opened: _Opened | None = None
        everything = config.search.measure_ann_recall
        self.backends = ["exact", "scann"] if everything else [config.search.backend]

    def rank(self, section: Section) -> dict[str, Ranking]:
        """The ranking of every backend.

        With query expansion each backend expands the queries with what it found itself.

        Raises:
            UserError: averaging takes more memory than it may; see `ScannSearch.open` too.
        """
        opened = self._open(section)
        rankings = {}
        for name in self.backends:
            scores, rows = self._search(opened, name, section)
            rankings[name] = Ranking(section.query_ids, rows, scores)
        return rankings

    def count(self, section: Section, query: np.ndarray, positive: np.ndarray) -> PositiveCounts:
        """The places of positives by exact search, without rankings.

        Args:
            section: whose queries search its database.
            query: [n] int32, the query of each pair, not falling.
            positive: [n] int32, the database index of each pair's positive.

        Raises:
            UserError: averaging takes more memory than it may; a row is not as it should be.
        """
        index = self._open(section).indexes["exact"]
        assert isinstance(index, ExactIndex)
        with self._timings.stage(f"count_{section.name}_exact") as timing:
            places = index.count(section.queries, query, positive)
            timing.items += len(section.queries)
        return PositiveCounts(section.query_ids, index.k, index.num_rows, query, positive, *places)

    def built(self) -> dict[str, dict[str, int]]:
        """What the indexes of the last section really are, by backend, if there is more to say."""
        indexes = self._opened.indexes if self._opened is not None else {}
        return {name: index.facts() for name, index in indexes.items() if index.facts()}

    def sweep(self, section: Section) -> dict[str, object]:
        """ANN recall@k and queries per second of the section that was ranked last.

        Its queries are taken as they are, before any expansion.
        """
        index = self._open(section).indexes["scann"]
        assert isinstance(index, ScannIndex)
        with self._timings.stage(f"sweep_{section.name}"):
            points = sweep(
                functools.partial(index.search_leaves, section.queries),
                self._first["exact"],
                [min(count, index.plan.num_leaves) for count in self._config.search.scann.sweep],
            )
        exact = self._timings.stages[f"search_{section.name}_exact"]
        return {
            "num_leaves": index.plan.num_leaves,
            "exact_queries_per_s": exact.items / (exact.total_s - exact.compile_s),
            "points": [dataclasses.asdict(point) for point in points],
        }

    def _open(self, section: Section) -> _Opened:
        """The database of a section with its indexes; the same again if it is the last one."""
        source = section.database
        if self._opened is None or self._opened.source is not source:
            self._opened = None  # frees its memory before the next takes its own
            database = self._average(source) if self._config.rerank.database_averaging else source
            indexes = {name: self._index(name, database, section) for name in self.backends}
            self._opened = _Opened(source, database, indexes)
        return self._opened

    def _index(
        self, name: str, database: VectorSource, section: Section
    ) -> ExactIndex | ScannIndex:
        config = self._config.search
        folder = self._index_folder / section.name if self._index_folder else None
        backends: dict[str, ExactSearch | ScannSearch] = {
            "exact": ExactSearch(
                self._mesh,
                config.block_rows,
                config.filter,
                in_memory=isinstance(database, MemoryDatabase),
                shared=self._is_shared,
                # What these two hand out was checked when they read it.
                any_length=isinstance(database, MemoryDatabase | Mapped),
            ),
            "scann": ScannSearch(config.scann, folder, self._origin(section)),
        }
        with self._timings.stage(f"open_{name}") as timing:
            index = backends[name].open(database, config.k)
            timing.items += database.num_rows()
        return index

    def _origin(self, section: Section) -> str:
        """What the searched database is: the section's, averaged or not."""
        config = self._config.rerank
        count, alpha = config.database_averaging, config.database_averaging_alpha
        return f"{section.origin} averaged over {count}, alpha {alpha}" if count else section.origin

    def _average(self, source: VectorSource) -> VectorSource:
        """The database of means, in memory."""
        config, block_rows = self._config.rerank, self._config.search.block_rows
        with self._timings.stage("average_database") as timing:
            dim = source.rows(np.zeros(1, np.int64)).shape[1]
            check_memory(source.num_rows(), dim, config.database_averaging_gib)
            memory = to_memory(source, block_rows)
            exact = ExactSearch(self._mesh, block_rows, quiet=True, in_memory=True)
            search = exact.open(memory, config.database_averaging + 1).search
            count, alpha = config.database_averaging, config.database_averaging_alpha
            averaged = average_database(memory.array, search, count, alpha)
            timing.items += len(averaged)
        return dataclasses.replace(memory, array=averaged)

    def _search(
        self, opened: _Opened, name: str, section: Section
    ) -> tuple[np.ndarray, np.ndarray]:
        """Scores [Q, k] and database indices [Q, k] of one backend."""
        index, queries = opened.indexes[name], section.queries
        with self._timings.stage(f"search_{section.name}_{name}") as timing:
            scores, rows = index.search(queries)
            timing.items += len(queries)
        self._first[name] = rows
        count = self._config.rerank.query_expansion
        if not count:
            return scores, rows
        with self._timings.stage(f"expand_{section.name}_{name}") as timing:
            alpha, fetch = self._config.rerank.query_expansion_alpha, opened.database.rows
            expanded = expand_queries(queries, scores[:, :count], rows[:, :count], fetch, alpha)
            scores, rows = index.search(expanded)
            timing.items += len(queries)
        return scores, rows
