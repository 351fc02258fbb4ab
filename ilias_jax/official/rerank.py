"""Re-ranking of similarity files of any program, by descriptors or vectors that files hold."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol, cast

import jax
import numpy as np
from etils import epath

from ilias_jax.embeddings.sources import Checked, Concatenated, read_ahead, split
from ilias_jax.errors import UserError, quoted
from ilias_jax.official.local_features import LocalFeatureFile, open_local_features
from ilias_jax.official.search import open_inputs
from ilias_jax.progress import track
from ilias_jax.rerank.descriptors import Descriptors, Storage, concatenated, to_storage
from ilias_jax.rerank.reranker import LocalReranker, Reranker
from ilias_jax.search.ranking import Ranking

_BLOCK_BYTES = 2**28  # of what is compared of a block's images; the next block is read meanwhile
_IMAGES_AT_ONCE = 64  # that are projected together, at most
Compared = np.ndarray | Descriptors


class Source(Protocol):
    """What a method compares of the images of some files, one after the other."""

    @property
    def places(self) -> str:
        """The files, for messages."""
        ...

    @property
    def num_rows(self) -> int:
        """Of all files."""
        ...

    @property
    def image_bytes(self) -> int:
        """Bytes of one image as it is compared."""
        ...

    def parts(self) -> Sequence[Callable[[], Iterable[str]]]:
        """Each gives the ids of a file in row order."""
        ...

    def read(self, rows: np.ndarray) -> Compared:
        """What is compared of rows [m] among those of all files; a UserError if one is unfit."""
        ...


def locate(source: Source, names: Sequence[str], kind: str) -> np.ndarray:
    """Rows [m] int64 of images; ids of others are in memory a few at a time.

    Args:
        source: of the rows.
        names: m ids, each once.
        kind: "queries" or "images", for messages.

    Raises:
        UserError: an image is in no file or in several rows.
    """
    rows = dict.fromkeys(names, -1)
    repeated: dict[str, None] = {}
    ids = (name for part in source.parts() for name in part())
    for row, name in enumerate(ids):
        if (known := rows.get(name)) is not None:
            if known >= 0:
                repeated[name] = None
            rows[name] = row
    for wrong, problem in (
        ([name for name, row in rows.items() if row < 0], "are not in"),
        ([*repeated], "are several rows of"),
    ):
        if wrong:
            raise UserError(
                f"{len(wrong):,} of {len(rows):,} {kind} to compare {problem} {source.places}, "
                f"first {', '.join(map(quoted, wrong[:3]))}"
            )
    return np.fromiter(rows.values(), np.int64, len(rows))


def names_at(source: Source, rows: np.ndarray) -> list[str]:
    """The ids of rising rows [m] among those of all files; a UserError if there are fewer rows."""
    wanted = set(rows.tolist())
    ids = (name for part in source.parts() for name in part())
    found = [name for row, name in enumerate(ids) if row in wanted]
    if len(found) < len(rows):
        raise UserError(
            f"row {rows[len(found)]:,} is not in {source.places}: these are not the files that the "
            "neighbours are rows of"
        )
    return found


def score_lists(
    ranking: Ranking,
    names: Sequence[str],
    length: int,
    reranker: Reranker,
    queries: Source,
    database: Source,
) -> np.ndarray:
    """Scores of a method alone for the first entries of lists, by blocks of queries.

    Args:
        ranking: of Q queries, whose indices are numbers of `names`.
        names: ids of database images.
        length: M, at most that of the lists.
        reranker: the method.
        queries, database: what it compares.

    Returns:
        [Q, M] float32.

    Raises:
        UserError: an image is in no file, or cannot be used.
    """
    wanted, positions = np.unique(ranking.indices[:, :length], return_inverse=True)
    rows = locate(queries, ranking.query_ids, "queries")
    images = locate(database, [names[index] for index in wanted], "images")
    images = images[positions].reshape(-1, length)
    size = max(1, _BLOCK_BYTES // (length * database.image_bytes))
    blocks = [slice(start, start + size) for start in range(0, len(rows), size)]
    similarities = ranking.scores[:, :length]
    scores = np.zeros(similarities.shape, np.float32)
    compared = (_read(queries, database, rows[block], images[block]) for block in blocks)
    with (
        track("re-rank", len(rows)) as advance,
        contextlib.closing(read_ahead(compared, 1)) as ahead,
    ):
        for block, each in zip(blocks, ahead, strict=True):
            scores[block] = reranker.score(*each, similarities[block])
            advance(len(each[2]))
    return scores


def _read(
    queries: Source, database: Source, rows: np.ndarray, images: np.ndarray
) -> tuple[Compared, Compared, np.ndarray]:
    """What is compared of rows [B] and images [B, M]: of each image once, and which are which."""
    chosen, indices = np.unique(images, return_inverse=True)
    return queries.read(rows), database.read(chosen), indices.reshape(images.shape)


def open_sources(
    queries: Sequence[epath.Path],
    database: Sequence[epath.Path],
    ids: tuple[Sequence[epath.Path], Sequence[epath.Path]],
    reranker: Reranker,
    counts: tuple[int, int],
) -> tuple[Source, Source]:
    """What a method compares of files: vectors of feature files, or local descriptors.

    Args:
        queries, database: the files.
        ids: of either, text files that name the rows of each; empty if the files do.
        reranker: the method.
        counts: of either, at most so many descriptors of an image.

    Raises:
        UserError: a file is missing, damaged, of another layout, or of descriptors of another
            length than the method or the other files have.
    """
    if reranker.inputs == "vectors":
        if any(ids):
            raise UserError("files of vectors name their rows: leave --query_ids, --database_ids")
        inputs = open_inputs(queries, database, [])
        sources = (inputs.queries, queries), (inputs.database, database)
        one, other = (_Vectors(source, _shown(paths)) for source, paths in sources)
        return one, other
    local = cast(LocalReranker, reranker)
    sides = [_open(queries, ids[0], "query"), _open(database, ids[1], "database")]
    files = [file for side in sides for file in side]
    for file in files:
        _check(file, files[0], local)
    storage = local.storage if local.storage == "bits" else "float32"
    return (
        _Local(sides[0], _Projector(local, storage, files[0]), counts[0]),
        _Local(sides[1], _Projector(local, local.storage, files[0]), counts[1]),
    )


def _shown(paths: Sequence[epath.Path]) -> str:
    more = f" and {len(paths) - 3} more" if len(paths) > 3 else ""
    return ", ".join(map(str, paths[:3])) + more


def _open(
    paths: Sequence[epath.Path], ids: Sequence[epath.Path], side: str
) -> list[LocalFeatureFile]:
    if ids and len(ids) != len(paths):
        raise UserError(
            f"--{side}_ids names {len(ids)} files for {len(paths)} of descriptors; name one for "
            "each, in their order"
        )
    pairs = zip(paths, ids or [None] * len(paths), strict=True)
    return [open_local_features(*pair) for pair in pairs]


def _check(file: LocalFeatureFile, first: LocalFeatureFile, reranker: LocalReranker) -> None:
    """Raises UserError unless descriptors of a file fit those of the first one and the method."""
    if (file.dim, file.is_binary) != (first.dim, first.is_binary):
        raise UserError(
            f"{first.path} holds {_kind(first)} and {file.path} {_kind(file)}; all must be of one "
            "network and stored alike"
        )
    learned = bool(jax.tree.leaves(reranker.parameters))
    takes = reranker.input_dim
    if file.is_binary and learned:
        takes = projected_dim(reranker)
        if reranker.storage != "bits":
            raise UserError(
                f"{file.path} holds bits, which the method's weights do not make: theirs are "
                f"numbers, projected from {reranker.input_dim} channels; name binary weights"
            )
    if takes not in (None, file.dim):
        raise UserError(
            f"{file.path} holds {_kind(file)}, and the method's weights take {takes}; they belong "
            "to another model"
        )


def _kind(file: LocalFeatureFile) -> str:
    return f"descriptors of {file.dim} {'bits' if file.is_binary else 'channels'}"


def projected_dim(reranker: LocalReranker, dim: int | None = None) -> int:
    """Channels of what `project` makes of D channels, those of its weights for None."""
    values = jax.ShapeDtypeStruct((1, dim or reranker.input_dim or 1), np.float32)
    return jax.eval_shape(reranker.project, reranker.parameters, values).shape[-1]


@dataclasses.dataclass(frozen=True)
class _Vectors:
    """A source of vectors."""

    vectors: Concatenated
    places: str

    @property
    def num_rows(self) -> int:
        return self.vectors.num_rows()

    @property
    def image_bytes(self) -> int:
        return self.read(np.zeros(1, int)).nbytes

    def parts(self) -> Sequence[Callable[[], Iterable[str]]]:
        return [part.ids for part in self.vectors.parts]

    def read(self, rows: np.ndarray) -> np.ndarray:
        return Checked(self.vectors).rows(rows).astype(np.float32)


class _Projector:
    """Projects descriptors as extraction does before it stores them.

    Bits come after the projection: they are kept, or, where the method has no weights to project
    by, are as numbers +1 and -1 what it projects.
    """

    def __init__(self, reranker: LocalReranker, storage: Storage, file: LocalFeatureFile) -> None:
        self._parameters, self._project = reranker.parameters, jax.jit(reranker.project)
        self._storage = storage
        self._keeps = file.is_binary and storage == "bits"
        self.dim = file.dim if self._keeps else projected_dim(reranker, file.dim)

    @property
    def descriptor_bytes(self) -> int:
        """Of one as it is kept, with its place and weight."""
        places = 3 * np.dtype(np.float32).itemsize
        if self._storage == "bits":
            return self.dim // 8 + places
        return self.dim * np.dtype(self._storage).itemsize + places

    def __call__(self, found: Descriptors, size: int) -> Descriptors:
        """Of up to `size` images, which are padded to it so that one program does for all."""
        if self._keeps:
            return found
        dense = found.dense()
        values = np.zeros((size, *dense.shape[1:]), np.float32)
        values[: len(found)] = dense
        projected = np.asarray(jax.device_get(self._project(self._parameters, values)))
        kept = np.where(found.mask[..., None], projected[: len(found)], np.float32(0))
        return dataclasses.replace(found, values=to_storage(kept, self._storage))


@dataclasses.dataclass(frozen=True)
class _Local:
    """A source of local descriptors, at most `count` of an image."""

    files: Sequence[LocalFeatureFile]
    project: _Projector
    count: int

    @property
    def places(self) -> str:
        return _shown([file.path for file in self.files])

    @property
    def num_rows(self) -> int:
        return sum(file.num_rows for file in self.files)

    @property
    def image_bytes(self) -> int:
        return self._length * self.project.descriptor_bytes

    @property
    def _length(self) -> int:
        return min(self.count, max(file.count for file in self.files))

    def parts(self) -> Sequence[Callable[[], Iterable[str]]]:
        return [file.ids for file in self.files]

    def read(self, rows: np.ndarray) -> Descriptors:
        wanted, back = np.unique(rows, return_inverse=True)
        starts = np.cumsum([0, *(file.num_rows for file in self.files)]).tolist()
        parts = [
            part
            for number, taken in split(wanted, starts)
            for part in self._read_file(self.files[number], wanted[taken] - starts[number])
        ]
        return concatenated(parts).take(back)

    def _read_file(self, file: LocalFeatureFile, rows: np.ndarray) -> Iterator[Descriptors]:
        size = min(_IMAGES_AT_ONCE, file.rows_at_once(self.count))
        for start in range(0, len(rows), size):
            found = file.read(rows[start : start + size], self.count)
            yield _padded(self.project(found, size), self._length)


def _padded(found: Descriptors, length: int) -> Descriptors:
    """The same with room for `length` descriptors of an image."""
    missing = (0, length - found.values.shape[1])
    values, locations = (
        np.pad(array, ((0, 0), missing, (0, 0))) for array in (found.values, found.locations)
    )
    weights = np.pad(found.weights, ((0, 0), missing))
    return Descriptors(values, locations, weights, found.counts)
