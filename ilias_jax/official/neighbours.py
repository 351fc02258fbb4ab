"""Lists of nearest neighbours as rows of a gallery: npz, HDF5, and the tensor files of AMES.

An npz or HDF5 file has `index` [Q, K] of integers, rows of the gallery, and `similarity` [Q, K]
float32; it may name the rows itself, by `query_ids` [Q] and `database_ids` [N]. AMES pickles a
PyTorch tensor [2 or 3, Q, K] float32 of similarities, of rows, and of rows of a smaller file. A
float32 holds whole numbers exactly up to 2^24 alone, so that such files are refused for
larger galleries.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from etils import epath

from ilias_jax.errors import UserError
from ilias_jax.files import read_npz, reading, write_bytes, write_npz
from ilias_jax.metrics.lists import SimilarityLists, of_contents
from ilias_jax.models.checkpoints.pickled_tensor import read_pickled_tensor
from ilias_jax.official.features import damage_named, opened, storage_problem
from ilias_jax.search.ranking import Ranking

MAX_FLOAT32_ROWS = 2**24
_HDF5_START, _ZIP_START = b"\x89HDF", b"PK\x03\x04"
_NAMES = ("query_ids", "database_ids")
_LAYOUT = (
    "expected an npz or HDF5 of `index` [Q, K], integers, and `similarity` [Q, K] float32, or a "
    "pickled PyTorch tensor [2 or 3, Q, K] float32"
)


@dataclasses.dataclass(frozen=True, eq=False)
class Neighbours:
    """Lists of K rows of a gallery for Q queries; nothing is sorted.

    Attributes:
        index: [Q, K] int64.
        similarity: [Q, K] float32.
        query_ids: Q ids, or None where the file has none.
        database_ids: N ids, likewise.
        is_float: whether rows were kept as float32.
    """

    index: np.ndarray
    similarity: np.ndarray
    query_ids: tuple[str, ...] | None = None
    database_ids: tuple[str, ...] | None = None
    is_float: bool = False

    def to_lists(
        self, query_ids: Sequence[str], ids_at: Callable[[np.ndarray], list[str]], num_rows: int
    ) -> SimilarityLists:
        """The same as lists of ids.

        Args:
            query_ids: Q ids.
            ids_at: gives the ids of rising rows [m] of the gallery.
            num_rows: N, of the gallery.

        Raises:
            UserError: there are other numbers of queries, or rows that the gallery has not.
        """
        if len(query_ids) != len(self.index):
            raise UserError(
                f"{len(self.index):,} lists of neighbours for {len(query_ids):,} queries"
            )
        if self.is_float and num_rows > MAX_FLOAT32_ROWS:
            raise UserError(
                f"neighbours in float32 cannot tell rows above {MAX_FLOAT32_ROWS:,} apart, and the "
                f"gallery has {num_rows:,}; write `index` as int64 to an npz"
            )
        if self.index.max(initial=0) >= num_rows:
            raise UserError(
                f"neighbours have row {self.index.max():,} of a gallery of {num_rows:,}; they "
                "belong to other files"
            )
        rows, entries = np.unique(self.index, return_inverse=True)
        entries = entries.reshape(self.index.shape).astype(np.int32)
        contents = list(zip(entries, self.similarity.astype(np.float64), strict=True))
        return of_contents(query_ids, ids_at(rows), contents)


def read_neighbours(path: epath.Path) -> Neighbours:
    """Reads a file of neighbours; nothing that a pickle names is run.

    Raises:
        UserError: it is missing, damaged or of another layout, or a row is negative, not whole, or
            a float32 that several rows share.
    """
    with reading(path), path.open("rb") as file:
        start = file.read(4)
    if start == _HDF5_START:
        arrays = _read_hdf5(path)
    elif start == _ZIP_START:
        try:
            arrays = read_npz(path)
        except ValueError as error:
            raise UserError(f"{path}: not an npz that can be read ({error}); {_LAYOUT}") from error
    else:
        return _of_tensor(read_pickled_tensor(path), path)
    return _of_arrays(arrays, path)


def _read_hdf5(path: epath.Path) -> dict[str, np.ndarray]:
    import h5py

    with opened(path) as file, damage_named(path):
        found = {n: file[n] for n in ("index", "similarity", *_NAMES) if n in file}
        for name, dataset in found.items():
            problem = (
                storage_problem(dataset) if isinstance(dataset, h5py.Dataset) else "is a group"
            )
            if problem:
                raise UserError(f"{path}: {name} {problem}")
        texts = {n for n, d in found.items() if h5py.check_string_dtype(d.dtype)}
        return {n: d.asstr()[:] if n in texts else d[:] for n, d in found.items()}


def _of_arrays(arrays: dict[str, np.ndarray], path: epath.Path) -> Neighbours:
    if missing := [name for name in ("index", "similarity") if name not in arrays]:
        raise UserError(f"{path}: no {' and no '.join(missing)}; {_LAYOUT}")
    index, similarity = arrays["index"], arrays["similarity"]
    if index.dtype.kind not in "iu" or index.ndim != 2:
        raise UserError(f"{path}: index is {index.dtype}{list(index.shape)}; {_LAYOUT}")
    query_ids, database_ids = (_names(arrays, name, path) for name in _NAMES)
    scores = _similarity(similarity, index.shape, path)
    found = Neighbours(index.astype(np.int64), scores, query_ids, database_ids)
    if (index < 0).any():
        raise UserError(f"{path}: index holds {index.min()}, which is no row")
    if found.query_ids is not None and len(found.query_ids) != len(index):
        raise UserError(f"{path}: {len(found.query_ids)} query_ids for {len(index)} lists")
    return found


def _names(arrays: dict[str, np.ndarray], name: str, path: epath.Path) -> tuple[str, ...] | None:
    found = arrays.get(name)
    if found is None:
        return None
    if found.ndim != 1 or not all(isinstance(text, str) for text in found.tolist()):
        raise UserError(f"{path}: {name} is {found.dtype}{list(found.shape)}; expected text")
    return tuple(found.tolist())


def _similarity(found: np.ndarray, shape: tuple[int, ...], path: epath.Path) -> np.ndarray:
    if found.shape != shape or found.dtype.kind != "f":
        raise UserError(
            f"{path}: similarity is {found.dtype}{list(found.shape)} and index {list(shape)}; "
            f"{_LAYOUT}"
        )
    return found.astype(np.float32)


def _of_tensor(found: np.ndarray, path: epath.Path) -> Neighbours:
    if found.ndim != 3 or len(found) not in (2, 3) or found.dtype != np.float32:
        raise UserError(f"{path}: a tensor {found.dtype}{list(found.shape)}; {_LAYOUT}")
    rows = found[1]
    if (wrong := rows[~((rows >= 0) & (rows == np.floor(rows)) & np.isfinite(rows))]).size:
        raise UserError(
            f"{path}: {wrong.size:,} of its rows are negative or not whole, first {wrong[0]}"
        )
    if rows.max(initial=0) >= MAX_FLOAT32_ROWS:
        raise UserError(
            f"{path}: row {rows.max():,.0f} in float32, which cannot tell rows above "
            f"{MAX_FLOAT32_ROWS:,} apart; write `index` as int64 to an npz"
        )
    return Neighbours(rows.astype(np.int64), found[0].copy(), is_float=True)


def write_neighbours(
    path: epath.Path, ranking: Ranking, ids_at: Callable[[np.ndarray], list[str]]
) -> None:
    """Writes a ranking as neighbours among the database images that it holds, with their ids.

    Args:
        path: of the file, HDF5 if its name ends in .hdf5 or .h5, else npz.
        ranking: whose indices are rows.
        ids_at: gives the ids of rising rows [m].
    """
    import h5py

    rows, index = np.unique(ranking.indices, return_inverse=True)
    index = index.reshape(ranking.indices.shape).astype(np.int64)
    numbers = {"index": index, "similarity": ranking.scores}
    names = {"query_ids": list(ranking.query_ids), "database_ids": ids_at(rows)}
    if path.suffix not in (".hdf5", ".h5"):
        texts = {key: np.array(value, np.str_) for key, value in names.items()}
        write_npz(path, **numbers, **texts)
        return
    with h5py.File(path.name, "w", driver="core", backing_store=False) as file:
        for key, value in numbers.items():
            file.create_dataset(key, data=value)
        for key, words in names.items():
            file.create_dataset(key, data=words, dtype=h5py.string_dtype())
        file.flush()
        write_bytes(path, file.id.get_file_image())
