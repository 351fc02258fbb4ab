"""ScaNN's partitioned index (Guo et al., 2020) behind the method of exact search."""

import dataclasses
import math
from typing import Any

import numpy as np

from ilias_jax.embeddings import EmbeddingFiles
from ilias_jax.errors import UserError

# Below this many rows the index would be no faster than looking at all of them, and its training
# needs more rows than there are.
_MIN_ROWS = 1000


@dataclasses.dataclass(frozen=True)
class ScannSearch:
    """Approximate search in a partitioned index; attributes as in `config.ScannConfig`.

    Attributes:
        num_leaves: partitions; 0 for about the square root of the rows.
        num_leaves_to_search: partitions that a query visits; 0 for a third of them.
        dimensions_per_block: channels that share a quantisation code.
        anisotropic_threshold: of the quantisation loss.
        reorder: candidates scored exactly; 0 for twice k.
    """

    num_leaves: int = 0
    num_leaves_to_search: int = 0
    dimensions_per_block: int = 2
    anisotropic_threshold: float = 0.2
    reorder: int = 0

    def search(
        self, queries: np.ndarray, database: EmbeddingFiles, k: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Finds about the k rows of largest inner product with every query.

        Args:
            queries: [Q, D] float16 or float32.
            database: N rows of D channels, all held in memory.
            k: length of the lists, at least 1.

        Returns:
            Scores [Q, K] float32, falling, and database indices [Q, K] int32, K = min(k, N), as
            `ExactSearch.search`. Scores are exact for the rows that were found.

        Raises:
            UserError: `num_leaves` exceeds the number of rows, or the partitions that
                `num_leaves_to_search` names hold fewer than K rows for some query. A list is never
                filled up with rows that the index did not find.
        """
        vectors = database.vectors().astype(np.float32)
        queries = np.asarray(queries, np.float32)
        k = min(k, len(vectors))
        leaves = self._leaves(len(vectors))
        searcher = self._build(vectors, k, leaves)
        rows = self._search_enough(searcher, queries, k, leaves)
        return _rescore(queries, vectors, rows)

    def _leaves(self, num_rows: int) -> int:
        """Number of partitions; 1 for databases so small that all rows are looked at."""
        if self.num_leaves > num_rows:
            raise UserError(f"search.scann.num_leaves={self.num_leaves} exceeds {num_rows} rows")
        return 1 if num_rows < _MIN_ROWS else self.num_leaves or round(math.sqrt(num_rows))

    def _build(self, vectors: np.ndarray, k: int, leaves: int) -> Any:
        """Trains and fills the index."""
        from scann.scann_ops.py import scann_ops_pybind  # loads a large library: only when needed

        builder = scann_ops_pybind.builder(vectors, k, "dot_product")
        if leaves == 1:
            return builder.score_brute_force().build()
        count = len(vectors)
        return (
            builder.tree(leaves, leaves, training_sample_size=min(count, 250_000))
            .score_ah(
                self.dimensions_per_block,
                anisotropic_quantization_threshold=self.anisotropic_threshold,
            )
            .reorder(min(count, max(k, self.reorder or 2 * k)))
            .build()
        )

    def _search_enough(self, searcher: Any, queries: np.ndarray, k: int, leaves: int) -> np.ndarray:
        """[Q, k] rows; without a number of partitions to visit, twice as many until k are found."""
        visited = min(self.num_leaves_to_search or math.ceil(leaves / 3), leaves)
        while True:
            option = {} if leaves == 1 else {"leaves_to_search": visited}
            rows, scores = searcher.search_batched_parallel(queries, **option)
            # ScaNN pads short lists with NaN scores, and all lists to the longest one.
            found = np.isfinite(scores).sum(axis=1)
            if rows.shape[1] == k and found.min() == k:
                return np.asarray(rows, np.int64)
            if self.num_leaves_to_search or visited == leaves:
                raise UserError(
                    f"search.scann.num_leaves_to_search={visited} of {leaves} partitions gives "
                    f"{found.min()} rows for some query, fewer than k={k}; raise it or leave it 0"
                )
            visited = min(2 * visited, leaves)


def _rescore(
    queries: np.ndarray, vectors: np.ndarray, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Exact scores of the rows, falling, lower database index first among equal ones."""
    scores = np.empty(rows.shape, np.float32)
    for i, (query, row) in enumerate(zip(queries, rows, strict=True)):
        scores[i] = vectors[row] @ query
    order = np.lexsort((rows, -scores), axis=1)
    return np.take_along_axis(scores, order, 1), np.take_along_axis(rows, order, 1).astype(np.int32)
