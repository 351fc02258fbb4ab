"""The result of a search: a ranking, its file, and the embedding files that it ranks."""

import contextlib
import dataclasses
import json
import logging
from collections.abc import Iterator, Mapping

import numpy as np
from etils import epath

from ilias_jax.embeddings.file import short_hash
from ilias_jax.embeddings.files import EmbeddingFiles
from ilias_jax.errors import UserError
from ilias_jax.files import read_npz, write_npz


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
        arrays = (("indices", self.indices, np.int32), ("scores", self.scores, np.float32))
        for name, array, dtype in arrays:
            if array.dtype != dtype:
                raise ValueError(f"{name} are {array.dtype}; expected {np.dtype(dtype)}")
            if array.ndim != 2 or len(array) != len(self.query_ids):
                raise ValueError(
                    f"{name} has shape {array.shape}; expected [Q, K] with "
                    f"Q = {len(self.query_ids)} query ids"
                )
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
        """Writes one .npz file of plain arrays, whole or not at all; an older file is replaced.

        The origin is a note on the database that the indices refer to; `read_provenance` reads it.
        """
        query_ids, note = (np.array(text, np.str_) for text in (self.query_ids, origin))
        arrays = {"indices": self.indices, "scores": self.scores, "origin": note}
        write_npz(epath.Path(path), query_ids=query_ids, **arrays)

    @classmethod
    def load(cls, path: epath.PathLike) -> "Ranking":
        """Reads what `save` wrote; a UserError if there is no such file or it is no ranking."""
        with _arrays_of(path) as arrays:
            query_ids = tuple(str(query) for query in arrays["query_ids"])
            return cls(query_ids, arrays["indices"], arrays["scores"])


@contextlib.contextmanager
def _arrays_of(path: epath.PathLike) -> Iterator[Mapping[str, np.ndarray]]:
    """The arrays of a ranking's file; what is wrong, here or inside the block, is a UserError."""
    path = epath.Path(path)
    if not path.exists():
        raise UserError(f"{path}: no such ranking file; run the search first")
    try:
        yield read_npz(path)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{path}: not a ranking file ({error}); expected an .npz with query_ids, indices and "
            "scores: delete it and run the search again"
        ) from error


@dataclasses.dataclass(frozen=True)
class FileRecord:
    """An embedding file as it was when the ranking was made.

    Attributes:
        name: `<fingerprint folder>/<file>` below the workdir's `embeddings/`.
        num_rows: embeddings in it.
        fingerprint: short hash of its fingerprint: model, preprocessing and source shard.
    """

    name: str
    num_rows: int
    fingerprint: str


@dataclasses.dataclass(frozen=True)
class Provenance:
    """The embedding files of a ranking; its database is the positives, then the distractors."""

    queries: tuple[FileRecord, ...]
    positives: tuple[FileRecord, ...]
    distractors: tuple[FileRecord, ...]

    def to_text(self) -> str:
        """As JSON, for the ranking's file."""
        return json.dumps(
            {role: [*map(dataclasses.astuple, files)] for role, files in vars(self).items()}
        )

    def database_text(self) -> str:
        """The database's files alone, as JSON: other queries search the same database."""
        return json.dumps([*map(dataclasses.astuple, self.positives + self.distractors)])


def warn_of_cut(k: int, num_rows: int) -> None:
    """Says that lists of k will be shorter, as the database has fewer rows."""
    if k > num_rows:
        logging.warning("k=%d, and the database has %d rows: lists hold all of them", k, num_rows)


def trace(
    queries: EmbeddingFiles, positives: EmbeddingFiles, distractors: EmbeddingFiles
) -> Provenance:
    """The provenance of a ranking of these queries in this database."""
    return Provenance(_records(queries), _records(positives), _records(distractors))


def _records(files: EmbeddingFiles) -> tuple[FileRecord, ...]:
    return tuple(
        FileRecord(f"{at.parent.name}/{at.name}", each.num_rows, short_hash(each.fingerprint))
        for each in files.headers
        for at in [each.path]
    )


def read_provenance(path: epath.Path) -> Provenance:
    """The provenance kept with the ranking at `path`; a UserError if it cannot be read."""
    with _arrays_of(path) as arrays:
        text = str(arrays["origin"]) if "origin" in arrays else ""
    if not text:
        raise UserError(
            f"{path} does not say which embeddings it ranks (an older version wrote it); run the "
            "benchmark again with the same recipe and workdir: nothing is embedded twice"
        )
    try:
        roles = json.loads(text)
        return Provenance(
            **{role: tuple(FileRecord(*file) for file in files) for role, files in roles.items()}
        )
    except (AttributeError, RecursionError, TypeError, ValueError) as error:
        raise UserError(f"{path}: the note on its embeddings cannot be read ({error})") from error


def find_embeddings(records: tuple[FileRecord, ...], folder: epath.Path) -> EmbeddingFiles:
    """The recorded files below a workdir's `embeddings/`; a UserError if one is gone or changed."""
    paths = [folder / record.name for record in records]
    gone = [str(path) for path in paths if not path.exists()]
    if gone:
        raise UserError(
            f"{len(gone)} of {len(paths)} embedding files of the ranking are gone, first "
            f"{gone[0]}; run the benchmark again"
        )
    found = EmbeddingFiles(paths)
    for record, now in zip(records, _records(found), strict=True):
        if record != now:
            raise UserError(
                f"{folder / record.name} holds {now.num_rows} rows of source {now.fingerprint}; "
                f"the ranking was made from {record.num_rows} rows of {record.fingerprint}: run "
                "the benchmark again"
            )
    return found


def check_ranking(ranking: Ranking, provenance: Provenance, queries: EmbeddingFiles) -> None:
    """Raises UserError unless the ranking's queries and indices are of these files."""
    num_database = sum(file.num_rows for file in provenance.positives + provenance.distractors)
    if list(ranking.query_ids) != queries.ids() or ranking.indices.max(initial=0) >= num_database:
        raise UserError(
            f"the ranking's queries or indices are not those of {len(queries.paths)} query files "
            f"and {num_database:,} database rows; run the benchmark again"
        )
