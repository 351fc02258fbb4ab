"""Official feature files: HDF5 with `features` [N, D] and `index`, the N ids in row order.

The toolkit writes ids in ASCII, other characters as `#U` and four digits of their code, or as two
backslashes, U and eight digits. h5py is imported where a file is opened, because most commands read
none.
"""

import contextlib
import dataclasses
import math
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from etils import epath

from ilias_jax import files
from ilias_jax.embeddings.sources import check_norms, gather, regroup, runs, squared_norms
from ilias_jax.errors import UserError, printable, quoted

if TYPE_CHECKING:
    import h5py

_SIGNATURE = b"\x89HDF\r\n\x1a\n"
# What h5py raises for damage depends on where it is; a UnicodeDecodeError is a ValueError.
_DAMAGE = (OSError, RuntimeError, ValueError, KeyError, TypeError)
_MAX_CHUNK_BYTES = 2**28  # of a chunk, which HDF5 reads whole
_BYTES_AT_ONCE = 2**26
_GAP_BYTES = 2**18  # between two wanted rows: read along, as another read takes longer
_NUMBER = "{idx}"  # in the toolkit's templates of file names
_NOT_ASCII = re.compile(r"[^\x00-\x7f]")
_ESCAPE = re.compile(r"#U([0-9a-fA-F]{4})|\\\\U([0-9a-fA-F]{8})")


@dataclasses.dataclass(frozen=True)
class FeatureFile:
    """A feature file as rows of vectors with ids; `open_features` makes it.

    Vectors are expected to be L2-normalised, as the official ones are. Others are an error unless
    `normalize` is set, because the official search takes them as they are.
    """

    path: epath.Path
    shape: tuple[int, int]  # (N, D)
    dtype: np.dtype  # float16 or float32
    normalize: bool  # divide every row by its L2 norm; rows are then float32

    def num_rows(self) -> int:
        return self.shape[0]

    def ids(self) -> list[str]:
        with opened(self.path) as file, damage_named(self.path):
            names = [unescape(name.decode()) for name in file["index"][:]]
        if "" in names:
            raise UserError(
                f"{self.path}: {names.count(''):,} of {len(names):,} rows have no id, first row "
                f"{names.index('')}; the file was not written to its end: write it again"
            )
        return names

    def vectors(self) -> np.ndarray:
        parts = list(self._pieces())
        return np.concatenate(parts) if parts else np.zeros(self.shape, self.dtype)

    def blocks(self, num_rows: int) -> Iterator[np.ndarray]:
        """Yields all rows in order as blocks [num_rows, D]; the last one may be shorter.

        Raises:
            UserError: a row holds NaN or infinity or is not L2-normalised, or the file is damaged.
        """
        return regroup(self._pieces(), num_rows)

    def rows(self, indices: np.ndarray) -> np.ndarray:
        return gather(indices, self.num_rows(), self._pick)

    def place_of(self, row: int) -> str:
        with opened(self.path) as file:
            name = unescape(file["index"][row].decode(errors="replace"))
            return f"{self.path}, row {row} ({name})"

    def _pieces(self) -> Iterator[np.ndarray]:
        with opened(self.path) as file:
            step = _rows_at_once(file["features"])
            for start in range(0, self.shape[0], step):
                with damage_named(self.path):
                    rows = file["features"][start : start + step]
                yield self._checked(rows, np.arange(start, start + len(rows)))

    def _pick(self, wanted: np.ndarray) -> np.ndarray:
        dtype = np.float32 if self.normalize else self.dtype
        rows = np.empty((len(wanted), self.shape[1]), dtype)
        with opened(self.path) as file:
            features = file["features"]
            gap = max(_chunk_rows(features), _GAP_BYTES // _row_bytes(features))
            for run in runs(wanted, gap, _rows_at_once(features)):
                first, last = int(wanted[run.start]), int(wanted[run.stop - 1])
                with damage_named(self.path):
                    found = features[first : last + 1]
                rows[run] = self._checked(found[wanted[run] - first], wanted[run])
        return rows

    def _checked(self, rows: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        """The rows, normalised if asked for; raises UserError on rows that no search may see."""
        squares = squared_norms(rows)
        if not self.normalize:
            check_norms(squares, numbers, self)
            return rows
        if (zero := np.flatnonzero(squares == 0)).size:
            where = self.place_of(int(numbers[zero[0]]))
            raise UserError(f"{where} is all zeros and has no direction; extract it again")
        # Only NaN and infinity are left to refuse.
        check_norms(np.where(np.isfinite(squares), np.float32(1), squares), numbers, self)
        return rows.astype(np.float32) / np.sqrt(squares)[:, None]


def open_features(path: epath.Path, normalize: bool = False) -> FeatureFile:
    """Opens a feature file; its vectors are read later, block by block.

    Raises:
        UserError: there is no such file, it is no HDF5 file, or it has another layout.
    """
    with opened(path) as file, damage_named(path):
        if problem := _problem_of(file):
            raise UserError(f"{path}: {problem}")
        return FeatureFile(path, file["features"].shape, file["features"].dtype, normalize)


def read_as_stored(path: epath.Path) -> tuple[np.ndarray, list[str]]:
    """Rows [N, D] float16 or float32 of any norm, and the N ids as the file has them.

    Raises:
        UserError: as `open_features`, or the file is damaged.
    """
    open_features(path)
    with opened(path) as file, damage_named(path):
        return file["features"][:], file["index"].asstr()[:].tolist()


def _problem_of(file: "h5py.File") -> str | None:
    import h5py

    names = ("features", "index")
    if loose := [name for name in names if name in list(file) and file.get(name) is None]:
        return f"{' and '.join(loose)}: a link to what is not there; write the data themselves"
    if missing := [name for name in names if not isinstance(file.get(name), h5py.Dataset)]:
        return (
            f"no dataset {' and no '.join(missing)}, only "
            f"{printable(', '.join(file))[:200] or 'nothing'}; an official feature file has "
            "`features` [N, D] and `index` [N]"
        )
    features, index = file["features"], file["index"]
    for name, dataset in (("features", features), ("index", index)):
        if problem := storage_problem(dataset):
            return f"{name} {problem}"
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


def storage_problem(dataset: "h5py.Dataset") -> str | None:
    """What is wrong with how a dataset is stored: nothing of it is read, no memory is taken."""
    import h5py

    if dataset.shape is None:
        return "is a dataset without any value (a null dataspace); write the file again"
    filters = dataset.id.get_create_plist()
    for code, _, _, name in map(filters.get_filter, range(filters.get_nfilters())):
        if not h5py.h5z.filter_avail(code):
            return (
                f"is compressed with filter {code} ({quoted(name)}), which is not installed; "
                "pip install hdf5plugin, or write the file without it"
            )
    stored, claimed = dataset.id.get_storage_size(), dataset.nbytes
    if dataset.chunks is not None:
        if math.prod(dataset.chunks) * dataset.dtype.itemsize > _MAX_CHUNK_BYTES:
            return f"has chunks {dataset.chunks}; at most {_MAX_CHUNK_BYTES:,} bytes are allowed"
        sides = zip(dataset.shape, dataset.chunks, strict=True)
        stored, claimed = dataset.id.get_num_chunks(), math.prod(-(-n // k) for n, k in sides)
    if stored < claimed and not dataset.is_virtual:
        return (
            f"is {dataset.dtype}{list(dataset.shape)}, of which only a part was ever written; "
            "write the file again"
        )
    return None


@contextlib.contextmanager
def opened(path: epath.Path) -> Iterator["h5py.File"]:
    """An HDF5 file to read; a UserError if it is none, is damaged, or is being written."""
    import h5py

    with contextlib.ExitStack() as stack:
        stack.enter_context(files.reading(path))
        source = str(path) if is_local(path) else stack.enter_context(path.open("rb"))
        try:
            file = stack.enter_context(h5py.File(source, "r"))
        except (OSError, RuntimeError) as error:
            raise UserError(f"{path} {_why_closed(path, str(error))}") from error
        yield file


def _why_closed(path: epath.Path, error: str) -> str:
    """Why HDF5 does not open a file."""
    with path.open("rb") as file:
        start = file.read(len(_SIGNATURE))
    if "unable to lock file" in error:
        return f"is being written by another program; wait for it to end ({error})"
    if "already open for write" in error:
        return (
            "is marked as being written: wait for the program that writes it, or, if that died, "
            f"write it again (`h5clear --status` takes the mark from a whole file; {error})"
        )
    if packed := files.packed_as(start):
        return f"is no HDF5 file but {packed}; unpack it"
    if start == _SIGNATURE:
        return f"is an HDF5 file that is damaged or was cut short ({error}); copy it again"
    return f"is no HDF5 file, it begins with {quoted(start)}; copy it again"


@contextlib.contextmanager
def damage_named(path: epath.Path) -> Iterator[None]:
    """Names the file where it turns out to be damaged."""
    try:
        yield
    except _DAMAGE as error:
        raise UserError(f"{path} is damaged ({error}); copy it again") from error


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
    import h5py

    index = [escape(name) for name in ids]
    # In memory: HDF5 cannot close the file of a full disk, and crashes later.
    with h5py.File(path.name, "w", driver="core", backing_store=False) as file:
        dtype = h5py.string_dtype(encoding="ascii")
        file.create_dataset("index", data=index, shape=(len(index),), dtype=dtype)
        file.create_dataset("features", data=vectors)
        file.flush()
        files.write_bytes(path, file.id.get_file_image())


def is_local(path: epath.Path) -> bool:
    """Whether a path is of this machine's file system and not of a bucket."""
    return "://" not in str(path)


def escape(name: str) -> str:
    """The id in ASCII: "é" is `#U00e9`.

    Raises:
        UserError: the id holds text that looks like an escape already.
    """
    text = _NOT_ASCII.sub(_escaped, name)
    if unescape(text) != name:
        raise UserError(
            f"id {name!r} cannot be written to an official feature file: a part of it reads as an "
            "escaped character; rename the image"
        )
    return text


def _escaped(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"#U{code:04x}" if code <= 0xFFFF else f"\\\\U{code:08x}"


def unescape(text: str) -> str:
    """The id that `escape` was given; text without escapes stays as it is."""
    if "#U" not in text and "\\" not in text:
        return text
    return _ESCAPE.sub(_character, text)


def _character(match: re.Match[str]) -> str:
    code = int(match[1] or match[2], 16)
    return chr(code) if code < 0x110000 else match[0]


def feature_paths(words: Sequence[str], total: int | None = None) -> list[epath.Path]:
    """The files that the words of a command line name.

    Args:
        words: each a path, a file name with wildcards, or a template whose `{idx}` stands for
            00000, 00001, ...; files of a template or of wildcards come in the order of the numbers
            in their names.
        total: how many files the one template stands for; None for all that are there.

    Raises:
        UserError: a file is not there, a number is left out, or a file is named twice.
    """
    if total is not None and (len(words) != 1 or _NUMBER not in words[0] or total < 1):
        raise UserError(
            f"--total_distractors {total} goes with one template such as "
            f"features_distractors_{_NUMBER}.hdf5 and is at least 1; got {' '.join(words)}"
        )
    paths = [path for word in words for path in _paths_of(word, total)]
    if twice := sorted({str(path) for path in paths if paths.count(path) > 1}):
        raise UserError(f"named more than once: {', '.join(twice[:3])}")
    return paths


def _paths_of(word: str, total: int | None) -> list[epath.Path]:
    if _NUMBER in word:
        return _of_template(word, total)
    path = epath.Path(word)
    if path.exists() and not path.is_dir():
        return [path]
    found = list(path.parent.glob(path.name)) if re.search(r"[*?\[]", path.name) else []
    if not found:
        raise UserError(f"{word}: no such file; wildcards may stand in the file's name alone")
    return sorted(found, key=lambda each: _natural(each.name))


def _natural(name: str) -> list[tuple[int, str]]:
    """Sorts the numbers in a name by value: 2 before 10."""
    parts = re.split(r"(\d+)", name)
    return [(int(part), part) if part.isdecimal() else (-1, part) for part in parts]


def _of_template(word: str, total: int | None) -> list[epath.Path]:
    """The files 0, 1, ... of a template; the toolkit writes a number with at least five digits."""
    template = epath.Path(word)
    if template.name.count(_NUMBER) != 1 or word.count(_NUMBER) != 1:
        raise UserError(f"{word}: {_NUMBER} stands once, in the file's name")
    if total is None:
        found = template.parent.iterdir() if template.parent.exists() else ()
        before, after = map(re.escape, template.name.split(_NUMBER))
        pattern = re.compile(rf"{before}(\d{{5,}}){after}")
        matches = map(pattern.fullmatch, (path.name for path in found))
        total = 1 + max((int(match[1]) for match in matches if match), default=0)
    paths = [epath.Path(word.replace(_NUMBER, f"{number:05d}")) for number in range(total)]
    if missing := [str(path) for path in paths if not path.exists()]:
        raise UserError(
            f"{len(missing)} of the {total} files of {word} are missing: {', '.join(missing[:3])}; "
            "a search without them would be of a smaller database"
        )
    return paths
