"""The result of a search: database indices, best first, with their scores."""

import dataclasses

import numpy as np
from etils import epath

from ilias_jax.array_file import open_arrays, origin_of, save_arrays

_FILE = ("ranking", "query_ids, indices and scores")


@dataclasses.dataclass(frozen=True, eq=False)
class Ranking:
    """The best K database entries of each query.

    Attributes:
        query_ids: [Q] ids, one a row of the arrays.
        indices: [Q, K] int32 database indices, best first. The database is the positives in
            ground-truth order, then the distractors. No index occurs twice in a row.
        scores: [Q, K] float32 finite scores, higher is better, non-increasing along K.

    Raises:
        ValueError: a shape, dtype or value breaks one of the rules above.
    """

    query_ids: tuple[str, ...]
    indices: np.ndarray
    scores: np.ndarray

    def __post_init__(self) -> None:
        """Checks the rules of the class docstring."""
        _check_array("indices", self.indices, np.dtype(np.int32), len(self.query_ids))
        _check_array("scores", self.scores, np.dtype(np.float32), len(self.query_ids))
        if self.indices.shape != self.scores.shape:
            raise ValueError(
                f"indices have shape {self.indices.shape} and scores {self.scores.shape}; "
                "expected the same shape [Q, K]"
            )
        ordered = np.sort(self.indices, axis=1)
        rules = (
            (self.indices < 0, "holds a negative index, expected database indices >= 0"),
            (ordered[:, 1:] == ordered[:, :-1], "holds a database index more than once"),
            (~np.isfinite(self.scores), "holds a score that is NaN or infinite"),
            (self.scores[:, 1:] > self.scores[:, :-1], "has a score above the one before it"),
        )
        for broken, complaint in rules:
            rows = np.flatnonzero(broken.any(axis=1))
            if rows.size:
                query = self.query_ids[rows[0]]
                raise ValueError(f"ranking of query {query!r} {complaint} ({rows.size} rows do)")

    def save(self, path: epath.PathLike, origin: str = "") -> None:
        """Writes one .npz file of plain arrays: query_ids (unicode), indices, scores, origin.

        The file is written under a temporary name beside `path` and renamed, so that a file at
        `path` is always whole. A missing folder is made; an older file is replaced.

        Args:
            path: of the file.
            origin: a note on the database that the indices refer to; `load_origin` reads it.
        """
        query_ids = np.array(self.query_ids, dtype=np.str_)
        arrays = {"query_ids": query_ids, "indices": self.indices, "scores": self.scores}
        save_arrays(path, arrays, origin)

    @classmethod
    def load(cls, path: epath.PathLike) -> "Ranking":
        """Reads what `save` wrote.

        Raises:
            UserError: there is no such file, or it is not a ranking.
        """
        with open_arrays(path, *_FILE) as arrays:
            query_ids = tuple(str(query) for query in arrays["query_ids"])
            return cls(query_ids, arrays["indices"], arrays["scores"])


def load_origin(path: epath.PathLike) -> str:
    """Reads the note that `Ranking.save` was given; empty where there is none.

    Raises:
        UserError: there is no such file, or it is not a ranking.
    """
    with open_arrays(path, *_FILE) as arrays:
        return origin_of(arrays)


def _check_array(name: str, array: np.ndarray, dtype: np.dtype, num_queries: int) -> None:
    """Raises ValueError unless `array` is a [num_queries, K] numpy array of `dtype`."""
    if not isinstance(array, np.ndarray) or array.dtype != dtype:
        found = getattr(array, "dtype", None)
        raise ValueError(
            f"{name} is a {type(array).__name__} of {found}; expected a numpy array of {dtype}"
        )
    if array.ndim != 2 or array.shape[0] != num_queries:
        raise ValueError(
            f"{name} has shape {array.shape}; expected [Q, K] with Q = {num_queries} query ids"
        )
