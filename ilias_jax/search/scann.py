"""ScaNN's partitioned index (Guo et al., 2020) behind the methods of exact search."""

import dataclasses
import math
from typing import Any

import numpy as np

from ilias_jax.config import ScannConfig
from ilias_jax.errors import UserError
from ilias_jax.vectors import VectorSource

# Below this many rows the index would be no faster than looking at all of them, and its training
# needs more rows than there are.
_MIN_ROWS = 1000


@dataclasses.dataclass(frozen=True)
class ScannSearch:
    """Approximate search in a partitioned index.

    Attributes:
        config: how the index is built and searched.
    """

    config: ScannConfig

    def open(self, database: VectorSource, k: int) -> "ScannIndex":
        """Trains and fills the index.

        Args:
            database: N rows of D channels, all held in memory.
            k: length of the lists that will be asked for.

        Raises:
            UserError: `num_leaves` exceeds the number of rows.
        """
        from scann.scann_ops.py import scann_ops_pybind  # loads a large library: only when needed

        config, vectors = self.config, database.vectors().astype(np.float32)
        count, k = len(vectors), min(k, len(vectors))
        if config.num_leaves > count:
            raise UserError(f"search.scann.num_leaves={config.num_leaves} exceeds {count} rows")
        builder = scann_ops_pybind.builder(vectors, k, "dot_product")
        if count < _MIN_ROWS:
            return ScannIndex(vectors, builder.score_brute_force().build(), k, 1, 1, fixed=True)
        leaves = config.num_leaves or round(math.sqrt(count))
        visited = min(config.num_leaves_to_search or math.ceil(leaves / 3), leaves)
        searcher = (
            builder.tree(leaves, visited, training_sample_size=min(count, 250_000))
            .score_ah(
                config.dimensions_per_block,
                anisotropic_quantization_threshold=config.anisotropic_threshold,
            )
            .reorder(min(count, max(k, config.reorder or 2 * k)))
            .build()
        )
        fixed = config.num_leaves_to_search > 0
        return ScannIndex(vectors, searcher, k, leaves, visited, fixed)


@dataclasses.dataclass
class ScannIndex:
    """A built index.

    Attributes:
        vectors: [N, D] float32 database rows.
        searcher: ScaNN's own object.
        k: length of the lists, at most N.
        num_leaves: partitions; 1 for a database so small that all rows are looked at.
        num_leaves_to_search: partitions that a query visits; a search that finds too few rows
            raises it, unless `fixed`.
        fixed: whether the number of partitions to visit is the user's.
    """

    vectors: np.ndarray
    searcher: Any
    k: int
    num_leaves: int
    num_leaves_to_search: int
    fixed: bool

    def facts(self) -> dict[str, int]:
        """What was really built and searched, for the report."""
        return {
            "num_leaves": self.num_leaves,
            "num_leaves_to_search": self.num_leaves_to_search,
        }

    def search(self, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Finds about the k rows of largest inner product with every query.

        Args:
            queries: [Q, D] float16 or float32.

        Returns:
            Scores [Q, k] float32, falling, and database indices [Q, k] int32, as
            `ExactIndex.search`. Scores are exact for the rows that were found.

        Raises:
            UserError: the partitions that `num_leaves_to_search` asks for hold fewer than k rows
                for some query. A list is never filled up with rows that the index did not find.
        """
        queries = np.asarray(queries, np.float32)
        return _rescore(queries, self.vectors, self._search_enough(queries))

    def _search_enough(self, queries: np.ndarray) -> np.ndarray:
        """[Q, k] rows; twice as many partitions are visited until k rows are found."""
        while True:
            whole = self.num_leaves == 1
            option = {} if whole else {"leaves_to_search": self.num_leaves_to_search}
            rows, scores = self.searcher.search_batched_parallel(queries, **option)
            # ScaNN pads short lists with NaN scores, and all lists to the longest one.
            found = np.isfinite(scores).sum(axis=1)
            if rows.shape[1] == self.k and found.min() == self.k:
                return np.asarray(rows, np.int64)
            if self.fixed or self.num_leaves_to_search == self.num_leaves:
                raise UserError(
                    f"search.scann.num_leaves_to_search={self.num_leaves_to_search} of "
                    f"{self.num_leaves} partitions gives {found.min()} rows for some query, fewer "
                    f"than k={self.k}; raise it or leave it 0"
                )
            self.num_leaves_to_search = min(2 * self.num_leaves_to_search, self.num_leaves)


def _rescore(
    queries: np.ndarray, vectors: np.ndarray, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Exact scores of the rows, falling, lower database index first among equal ones."""
    scores = np.empty(rows.shape, np.float32)
    for i, (query, row) in enumerate(zip(queries, rows, strict=True)):
        scores[i] = vectors[row] @ query
    order = np.lexsort((rows, -scores), axis=1)
    return np.take_along_axis(scores, order, 1), np.take_along_axis(rows, order, 1).astype(np.int32)
