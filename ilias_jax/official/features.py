"""Official feature files: HDF5 with `features` [N, D] and `index`, the N ids in row order.

h5py is imported where a file is opened, because most commands read none.
"""

import contextlib
import dataclasses
import io
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from etils import epath

from ilias_jax import atomic
from ilias_jax.blocks import regroup
from ilias_jax.errors import UserError
from ilias_jax.gather import gather, runs
from ilias_jax.norms import check_chosen, squared_norms
from ilias_jax.official.escapes import escape, unescape

if TYPE_CHECKING:
    import h5py

_BYTES_AT_ONCE = 2**26
_GAP_BYTES = 2**18  # between two wanted rows: read along, as another read takes longer


@dataclasses.dataclass(frozen=True)
class FeatureFile:
    """A feature file as rows of vectors with ids; `open_features` makes it.

    Vectors are expected to be L2-normalised, as the official ones are. Others are an error unless
    `normalize` is set, because the official search takes them as they are.

    Attributes:
        path: of the file.
        shape: (N, D).
        dtype: float16 or float32.
        normalize: whether every row is divided by its L2 norm; rows are then float32.
    """

    path: epath.Path
    shape: tuple[int, int]
    dtype: np.dtype
    normalize: bool

    def num_rows(self) -> int:
        """N."""
        return self.shape[0]

    def ids(self) -> list[str]:
        """All N ids in row order, with the toolkit's `#U00e9` read as the character it means."""
        with _opened(self.path) as file:
            try:
                return [_decoded(name) for name in file["index"][:]]
            except (OSError, UnicodeDecodeError) as error:
                raise _damaged(self.path, error) from error

    def vectors(self) -> np.ndarray:
        """All rows at once, [N, D] float16 or float32.

        Raises:
            UserError: as `blocks`.
        """
        parts = list(self._pieces())
        return np.concatenate(parts) if parts else np.zeros(self.shape, self.dtype)

    def blocks(self, num_rows: int) -> Iterator[np.ndarray]:
        """Yields all rows in order as blocks [num_rows, D]; the last one may be shorter.

        Raises:
            UserError: a row holds NaN or infinity or is not L2-normalised, or the file is damaged.
        """
        return regroup(self._pieces(), num_rows)

    def rows(self, indices: np.ndarray) -> np.ndarray:
        """Any rows, [..., D] for indices [...] in [0, N).

        Raises:
            UserError: as `blocks`.
        """
        return gather(indices, self.num_rows(), self._pick)

    def place_of(self, row: int) -> str:
        """File, row and id of a row in [0, N)."""
        with _opened(self.path) as file:
            return f"{self.path}, row {row} ({_decoded(file['index'][row], 'replace')})"

    def _pieces(self) -> Iterator[np.ndarray]:
        with _opened(self.path) as file:
            step = _rows_at_once(file["features"])
            for start in range(0, self.shape[0], step):
                rows = self._read(file, start, start + step)
                yield self._checked(rows, np.arange(start, start + len(rows)))

    def _pick(self, wanted: np.ndarray) -> np.ndarray:
        """The rows of rising indices [n], [n, D]."""
        dtype = np.float32 if self.normalize else self.dtype
        rows = np.empty((len(wanted), self.shape[1]), dtype)
        with _opened(self.path) as file:
            features = file["features"]
            gap = max(_chunk_rows(features), _GAP_BYTES // _row_bytes(features))
            for run in runs(wanted, gap, _rows_at_once(features)):
                first, last = int(wanted[run.start]), int(wanted[run.stop - 1])
                found = self._read(file, first, last + 1)[wanted[run] - first]
                rows[run] = self._checked(found, wanted[run])
        return rows

    def _read(self, file: "h5py.File", start: int, stop: int) -> np.ndarray:
        """The rows from start to stop as they are stored."""
        try:
            return file["features"][start:stop]
        except OSError as error:
            raise _damaged(self.path, error) from error

    def _checked(self, rows: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        """The rows, normalised if asked for; raises UserError on rows that no search may see."""
        squares = squared_norms(rows)
        if not self.normalize:
            check_chosen(squares, numbers, self)
            return rows
        zero = np.flatnonzero(squares == 0)
        if zero.size:
            place = self.place_of(int(numbers[zero[0]]))
            raise UserError(f"{place} is all zeros and has no direction; extract it again")
        # Only NaN and infinity are left to refuse.
        check_chosen(np.where(np.isfinite(squares), np.float32(1), squares), numbers, self)
        return rows.astype(np.float32) / np.sqrt(squares)[:, None]


def open_features(path: epath.Path, normalize: bool = False) -> FeatureFile:
    """Opens a feature file; its vectors are read later, block by block.

    Args:
        path: of the file.
        normalize: see `FeatureFile`.

    Raises:
        UserError: there is no such file, it is no HDF5 file, or it has another layout.
    """
    with _opened(path) as file:
        missing = [name for name in ("features", "index") if not hasattr(file.get(name), "shape")]
        if missing:
            held = ", ".join(file) or "nothing"
            raise UserError(
                f"{path}: no dataset {' and no '.join(missing)}, only {held}; an official feature "
                "file has `features` [N, D] and `index` [N]"
            )
        features, index = file["features"], file["index"]
        problem = _problem_of(features, index)
        if problem:
            raise UserError(f"{path}: {problem}")
        return FeatureFile(path, tuple(features.shape), features.dtype, normalize)


def _problem_of(features: "h5py.Dataset", index: "h5py.Dataset") -> str | None:
    """Says what is wrong with the two datasets, None where nothing is."""
    import h5py

    if features.ndim != 2 or features.dtype not in (np.float16, np.float32):
        return (
            f"features is {features.dtype}{list(features.shape)}; expected float16 or float32 of "
            "shape [N, D]"
        )
    if index.ndim != 1 or h5py.check_string_dtype(index.dtype) is None:
        return f"index is {index.dtype}{list(index.shape)}; expected N strings"
    if len(index) != len(features):
        return f"features has {len(features):,} rows and index {len(index):,} ids"
    return None


@contextlib.contextmanager
def _opened(path: epath.Path) -> Iterator["h5py.File"]:
    import h5py

    if not path.exists():
        raise UserError(f"{path}: no such file")
    with contextlib.ExitStack() as stack:
        source = str(path) if _is_local(path) else stack.enter_context(path.open("rb"))
        try:
            file = stack.enter_context(h5py.File(source, "r"))
        except OSError as error:
            raise UserError(
                f"{path} is no HDF5 file, or one that was cut short ({error}); copy it again"
            ) from error
        yield file


def _damaged(path: epath.Path, error: Exception) -> UserError:
    return UserError(f"{path} is damaged ({error}); copy it again")


def _decoded(name: bytes, errors: str = "strict") -> str:
    return unescape(name.decode(errors=errors))


def _rows_at_once(features: "h5py.Dataset") -> int:
    """Rows to read together: whole chunks, so that each is unpacked once, of about 64 MiB."""
    chunk = _chunk_rows(features)
    return max(1, _BYTES_AT_ONCE // _row_bytes(features) // chunk) * chunk


def _chunk_rows(features: "h5py.Dataset") -> int:
    return features.chunks[0] if features.chunks else 1


def _row_bytes(features: "h5py.Dataset") -> int:
    return max(1, features.shape[1] * features.dtype.itemsize)


def write_features(path: epath.Path, ids: Sequence[str], vectors: np.ndarray) -> None:
    """Writes a feature file that the toolkit reads; the same input gives the same bytes.

    Args:
        path: of the file, written under a temporary name and renamed.
        ids: N ids; characters beyond ASCII are written as the toolkit does, "é" as `#U00e9`.
        vectors: [N, D] float16 or float32, L2-normalised.

    Raises:
        UserError: an id cannot be written so that it reads back.
    """
    index = [escape(name) for name in ids]
    with atomic.replacing(path) as temporary:
        if _is_local(path):
            _create(str(temporary), index, vectors)
        else:
            buffer = io.BytesIO()
            _create(buffer, index, vectors)
            temporary.write_bytes(buffer.getvalue())


def _create(target: str | io.BytesIO, index: list[str], vectors: np.ndarray) -> None:
    import h5py

    with h5py.File(target, "w") as file:
        dtype = h5py.string_dtype(encoding="ascii")
        file.create_dataset("index", data=index, shape=(len(index),), dtype=dtype)
        file.create_dataset("features", data=vectors)


def _is_local(path: epath.Path) -> bool:
    return "://" not in str(path)
