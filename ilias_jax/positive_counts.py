"""What a search without lists returns: how many database rows score as high as each positive."""

import dataclasses

import numpy as np
from etils import epath

from ilias_jax.array_file import open_arrays, origin_of, save_arrays

_PAIRS = ("query", "positive", "score", "at_or_above", "rank")
_FILE = ("counts", f"query_ids, k, num_database, {', '.join(_PAIRS[:-1])} and {_PAIRS[-1]}")


@dataclasses.dataclass(frozen=True, eq=False)
class PositiveCounts:
    """For every pair of a query and one of its positives, its score and its place.

    The order of a ranking is: higher score first, lower database index first among equal scores.
    AP@k never looks beyond rank k, so counts are exact up to k, and all larger ones are k + 1.

    Attributes:
        query_ids: [Q] ids.
        k: up to which counts are exact, at least 1.
        num_database: N, database rows that were searched.
        query: [n] int32 in [0, Q), not falling.
        positive: [n] int32 database indices, rising within a query.
        score: [n] float32 finite scores.
        at_or_above: [n] int32 in [1, k + 1], database rows whose score is at least as high, the
            positive itself among them.
        rank: [n] int32 in [1, k + 1], the positive's place in the ranking; at most `at_or_above`,
            and no two of a query have the same up to k.

    Raises:
        ValueError: a shape, dtype or value breaks one of the rules above.
    """

    query_ids: tuple[str, ...]
    k: int
    num_database: int
    query: np.ndarray
    positive: np.ndarray
    score: np.ndarray
    at_or_above: np.ndarray
    rank: np.ndarray

    def __post_init__(self) -> None:
        """Checks the rules of the class docstring."""
        count, most = len(self.query), self.k + 1
        if self.k < 1:
            raise ValueError(f"k = {self.k}; expected k >= 1")
        for name in _PAIRS:
            array, dtype = getattr(self, name), np.float32 if name == "score" else np.int32
            if array.dtype != dtype or array.shape != (count,):
                raise ValueError(
                    f"{name} is {array.dtype}{list(array.shape)}; expected "
                    f"{np.dtype(dtype)}[{count}], one value a pair"
                )
        step = np.diff(self.query)
        rules = (
            (self.query < 0, "has a negative query"),
            (self.query >= len(self.query_ids), f"has a query >= Q = {len(self.query_ids)}"),
            (step < 0, "is not in the order of its queries"),
            ((step == 0) & (np.diff(self.positive) <= 0), "has positives that do not rise"),
            (~np.isfinite(self.score), "has a score that is NaN or infinite"),
            (self.rank < 1, "has a rank below 1"),
            (self.rank > self.at_or_above, "has a rank beyond the end of its tie"),
            (self.at_or_above > most, f"counts further than k + 1 = {most}"),
            (self.at_or_above > self.num_database, f"counts more than N = {self.num_database}"),
            (self._repeated_ranks(), "has the rank of another positive"),
        )
        for broken, complaint in rules:
            if broken.any():
                raise ValueError(f"pair {int(np.argmax(broken))} of {count} {complaint}")

    def _repeated_ranks(self) -> np.ndarray:
        """[n] bool: an earlier pair of the query has the same rank, at most k."""
        order = np.lexsort((self.rank, self.query))
        query, rank = self.query[order], self.rank[order]
        repeated = np.zeros(len(order), bool)
        same = (query[1:] == query[:-1]) & (rank[1:] == rank[:-1]) & (rank[1:] <= self.k)
        repeated[order[1:]] = same
        return repeated

    def save(self, path: epath.PathLike, origin: str = "") -> None:
        """Writes one .npz file of plain arrays, one a field, and `origin`.

        The file is written as that of `Ranking.save` is.

        Args:
            path: of the file.
            origin: a note on the database that was searched; `load_counts_origin` reads it.
        """
        arrays = {name: getattr(self, name) for name in ("k", "num_database", *_PAIRS)}
        query_ids = np.array(self.query_ids, dtype=np.str_)
        save_arrays(path, {"query_ids": query_ids, **arrays}, origin)

    @classmethod
    def load(cls, path: epath.PathLike) -> "PositiveCounts":
        """Reads what `save` wrote.

        Raises:
            UserError: there is no such file, or it is none of counts.
        """
        with open_arrays(path, *_FILE) as arrays:
            query_ids = tuple(str(query) for query in arrays["query_ids"])
            k, num_database = int(arrays["k"]), int(arrays["num_database"])
            return cls(query_ids, k, num_database, *(arrays[name] for name in _PAIRS))


def load_counts_origin(path: epath.PathLike) -> str:
    """Reads the note that `PositiveCounts.save` was given; empty where there is none.

    Raises:
        UserError: there is no such file, or it is none of counts.
    """
    with open_arrays(path, *_FILE) as arrays:
        return origin_of(arrays)
