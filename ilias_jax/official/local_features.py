"""Files of local descriptors in the layouts of AMES and ELViS, HDF5.

`features` is one of

- float16 or float32 [N, n, 5 + D]: row, column, scale, padding flag, weight, descriptor;
- a compound [N, n], or [N] of fields [n, ...], of `metadata` [5], the first five, and `descriptor`
  [D], or uint8 [D / 8], bits of signs, the highest first, 1 for +1;
- uint8 [N, n, D / 8], such bits alone. This layout does not say which descriptors are padding:
  those of zeros at the end are, and one of zeros before the last other one is real.

Descriptors come strongest first and padding last, with flag 1. Rows and columns are shares of the
picture's sides, or pixels if the network that wrote them says so; they are read as they are. The
files name no image: their rows are the lines of a text file `path[,label,width,height]`, or a
dataset `index` or `ids` of the file. A merged file is often virtual, a list of parts.
"""

import dataclasses
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
from etils import epath

from ilias_jax.embeddings.sources import runs
from ilias_jax.errors import UserError, printable, quoted
from ilias_jax.files import reading
from ilias_jax.official.features import damage_named, opened, storage_problem, unescape
from ilias_jax.rerank.descriptors import Descriptors, concatenated

if TYPE_CHECKING:
    import h5py

PLACE = 5  # numbers beside a descriptor
FLAG, WEIGHT = 3, 4
Layout = Literal["columns", "fields", "bits"]
_BYTES_AT_ONCE = 2**26
_IDS_AT_ONCE = 2**16
_LONGEST = 2**16  # letters of a line
_INDICES = ("index", "ids")  # datasets that name the rows
_EXPECTED = (
    "expected float16 or float32 [N, n, 5 + D], a compound [N, n] of `metadata` [5] and "
    "`descriptor`, or uint8 [N, n, D / 8]"
)


@dataclasses.dataclass(frozen=True, eq=False)
class LocalFeatureFile:
    """An opened file; `open_local_features` makes it.

    Attributes:
        path: of the file.
        names: text file of its ids; None if the file has a dataset of them.
        layout: of its rows.
        num_rows: N, images.
        count: n, descriptors of an image, padding included.
        dim: D of the descriptors.
        is_binary: whether they are bits.
    """

    path: epath.Path
    names: epath.Path | None
    layout: Layout
    num_rows: int
    count: int
    dim: int
    is_binary: bool

    def ids(self) -> Iterator[str]:
        """Yields the N ids in row order, a few in memory at a time.

        Raises:
            UserError: the text file has another number of lines, or an id is empty.
        """
        number = 0
        for number, name in enumerate(self._stored_ids(), start=1):
            if not name:
                raise UserError(
                    f"{self.names or self.path}, row {number - 1} has no id; write the file again"
                )
            yield name
        if number != self.num_rows:
            raise UserError(
                f"{self.names or self.path} names {number:,} images and {self.path} has "
                f"{self.num_rows:,}; they do not belong together"
            )

    def read(self, rows: np.ndarray, count: int | None = None) -> Descriptors:
        """Descriptors of rows [m], in any order and repeated or not.

        What is read is in memory at once: ask for `rows_at_once` of them.

        Args:
            rows: in [0, N), else an IndexError.
            count: at most so many of an image, the strongest; None for all.

        Raises:
            UserError: one of them cannot be used, or the file is damaged.
        """
        wanted, back = np.unique(rows, return_inverse=True)
        if wanted.size and not 0 <= wanted[0] <= wanted[-1] < self.num_rows:
            raise IndexError(f"rows {wanted[0]}..{wanted[-1]} of {self.num_rows}")
        most = self.count if count is None else min(count, self.count)
        with opened(self.path) as file:
            parts = [self._part(file["features"], part, most) for part in self._runs(file, wanted)]
        return concatenated(parts or [self._empty(most)]).take(back)

    def blocks(self, num_rows: int, count: int | None = None) -> Iterator[Descriptors]:
        """Yields all images in order, `num_rows` at a time; errors are those of `read`."""
        for start in range(0, self.num_rows, num_rows):
            yield self.read(np.arange(start, min(start + num_rows, self.num_rows)), count)

    def rows_at_once(self, count: int) -> int:
        """How many images of `count` descriptors are about 64 MiB as the file has them."""
        size = self.dim // 8 if self.is_binary else 4 * self.dim
        read = min(count, self.count) if self.layout == "columns" else self.count
        return max(1, _BYTES_AT_ONCE // (read * (size + 4 * PLACE)))

    def _stored_ids(self) -> Iterator[str]:
        if self.names is not None:
            yield from _lines(self.names)
            return
        with opened(self.path) as file, damage_named(self.path):
            index = cast("h5py.Dataset", _index_of(file))
            for start in range(0, self.num_rows, _IDS_AT_ONCE):
                yield from (unescape(i.decode()) for i in index[start : start + _IDS_AT_ONCE])

    def _runs(self, file: "h5py.File", wanted: np.ndarray) -> Iterator[np.ndarray]:
        """Rising rows that are read together: neighbours, or those of the same chunk."""
        chunks = file["features"].chunks
        apart = chunks[0] if chunks else 1
        for run in runs(wanted, apart, -(-self.rows_at_once(self.count) // apart) * apart):
            yield wanted[run]

    def _part(self, features: "h5py.Dataset", rows: np.ndarray, count: int) -> Descriptors:
        first, end = int(rows[0]), int(rows[-1]) + 1
        with damage_named(self.path):
            # Of bits alone the zeros at the very end are padding, so all of an image is read.
            sliced = self.layout != "bits" and features.ndim > 1
            found = features[first:end, :count] if sliced else features[first:end]
        values, places = self._split(found[rows - first])
        return self._checked(values[:, :count], places[:, :count], rows)

    def _split(self, found: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Values [m, n, ...] as they are stored, and [m, n, 5] float32."""
        if self.layout == "bits":
            places = np.zeros((*found.shape[:2], PLACE), np.float32)
            later = np.cumsum(np.any(found, axis=2)[:, ::-1], axis=1)[:, ::-1]
            places[..., FLAG] = later == 0
            return found, places
        if self.layout == "fields":
            return found["descriptor"], found["metadata"].astype(np.float32)
        return np.ascontiguousarray(found[..., PLACE:]), found[..., :PLACE].astype(np.float32)

    def _checked(self, values: np.ndarray, places: np.ndarray, rows: np.ndarray) -> Descriptors:
        flags = places[..., FLAG]
        real = flags == 0
        problems = (
            (~np.isin(flags, (0, 1)), "has a padding flag that is neither 0 nor 1"),
            (real & (np.cumsum(~real, axis=1) > 0), "has a descriptor behind its padding"),
            (real & ~np.isfinite(values).all(axis=2), "holds NaN or infinity"),
            (real & ~np.isfinite(places).all(axis=2), "has a place or weight that is not finite"),
            (
                self._unwritten(values, places),
                "holds zeros for descriptors, as what was never written",
            ),
        )
        for wrong, complaint in problems:
            if (bad := np.flatnonzero(wrong.any(axis=1))).size:
                raise UserError(
                    f"{self._place_of(int(rows[bad[0]]))} {complaint}; extract it again"
                )
        values = np.where(real[..., None], values, values.dtype.type(0))
        places = np.where(real[..., None], places, np.float32(0))
        counts = real.sum(axis=1, dtype=np.int32)
        return Descriptors(values, places[..., :2], places[..., WEIGHT], counts)

    def _unwritten(self, values: np.ndarray, places: np.ndarray) -> np.ndarray:
        """[m, 1 or n] bool: HDF5 reads zeros, flags included, where nothing was written.

        Of numbers no descriptor is all zeros; of bits one may be, but not all of an image.
        """
        zeros = np.logical_not(values.any(axis=2))
        if not self.is_binary:
            return zeros & (places[..., FLAG] == 0)
        blank = np.all(zeros, axis=1, keepdims=True)
        if self.layout == "fields":
            blank &= ~np.any(places, axis=(1, 2))[:, None]
        return blank

    def _place_of(self, row: int) -> str:
        name = next((name for n, name in enumerate(self._stored_ids()) if n == row), "")
        return f"{self.path}, row {row} ({printable(name)})"

    def _empty(self, count: int) -> Descriptors:
        dim = self.dim // 8 if self.is_binary else self.dim
        values = np.zeros((0, count, dim), np.uint8 if self.is_binary else np.float32)
        places = np.zeros((0, count, 2), np.float32)
        return Descriptors(values, places, places[..., 0], np.zeros(0, np.int32))


def open_local_features(path: epath.Path, ids: epath.Path | None = None) -> LocalFeatureFile:
    """Opens a file and checks what can be seen without reading descriptors and a text of ids.

    Args:
        path: of the file.
        ids: text file that names its rows; None if the file does.

    Raises:
        UserError: a file is missing, damaged or of another layout, or names another number of rows.
    """
    with opened(path) as file, damage_named(path):
        if problem := _problem_of(file, path, ids is None):
            raise UserError(f"{path}: {problem}")
        features = file["features"]
        layout, count, dim, is_binary = _layout_of(features)
        found = LocalFeatureFile(path, ids, layout, len(features), count, dim, is_binary)
    if ids is not None:
        with reading(ids):
            pass
    return found


def _problem_of(file: "h5py.File", path: epath.Path, needs_ids: bool) -> str | None:
    import h5py

    features = file.get("features")
    if not isinstance(features, h5py.Dataset):
        others = printable(", ".join(file))[:200] or "nothing"
        return f"no dataset features, only {others}; {_EXPECTED}"
    if problem := storage_problem(features) or _absent_part(features, path):
        return f"features {problem}"
    layout, count, dim, _ = _layout_of(features)
    if not layout or not count or not dim:
        return f"features is {features.dtype!s:.200}{list(features.shape)}; {_EXPECTED}"
    return _index_problem(file, len(features)) if needs_ids else None


def _index_problem(file: "h5py.File", num_rows: int) -> str | None:
    import h5py

    index = _index_of(file)
    if index is None:
        return (
            "there is no `index` that names its images; name the text file of its rows, "
            "`path[,label,width,height]` a line"
        )
    if problem := storage_problem(index):
        return f"index {problem}"
    if index.ndim != 1 or h5py.check_string_dtype(index.dtype) is None:
        return f"index is {index.dtype}{list(index.shape)}; expected N strings"
    if len(index) != num_rows:
        return f"index names {len(index):,} images and features has {num_rows:,}"
    return None


def _index_of(file: "h5py.File") -> "h5py.Dataset | None":
    import h5py

    found = (file.get(name) for name in _INDICES)
    return next((index for index in found if isinstance(index, h5py.Dataset)), None)


def _absent_part(features: "h5py.Dataset", path: epath.Path) -> str | None:
    """What is wrong with a virtual dataset: HDF5 reads zeros for a part that is not there."""
    if not features.is_virtual:
        return None
    names = {part.file_name for part in features.virtual_sources()} - {"."}
    folder = os.path.dirname(path)
    for name in sorted(names):
        places = (name, os.path.join(folder, name), os.path.join(folder, os.path.basename(name)))
        if not any(map(os.path.exists, places)):
            return f"is made of files of which {quoted(name)} is not there; put it beside this one"
    return None


def _layout_of(features: "h5py.Dataset") -> tuple[Any, int, int, bool]:
    """Layout, n, D and whether it is of bits; no layout for one that is not known."""
    dtype, shape = features.dtype, features.shape
    if dtype.names is not None and set(dtype.names) == {"descriptor", "metadata"}:
        own, places = dtype["descriptor"], dtype["metadata"]
        sides = [(*shape[1:], *each.shape) for each in (own, places)]
        numbers = own.base in (np.float16, np.float32, np.uint8) and places.base.kind == "f"
        if numbers and [*map(len, sides)] == [2, 2] and sides[1] == (sides[0][0], PLACE):
            binary = own.base == np.uint8
            return "fields", sides[0][0], sides[0][1] * (8 if binary else 1), binary
    elif len(shape) == 3 and dtype == np.uint8:
        return "bits", shape[1], 8 * shape[2], True
    elif len(shape) == 3 and dtype in (np.float16, np.float32) and shape[2] > PLACE:
        return "columns", shape[1], shape[2] - PLACE, False
    return None, 0, 0, False


def _lines(path: epath.Path) -> Iterator[str]:
    """Yields the first column of a text's lines; empty lines may stand at its end alone."""
    empty = 0
    with reading(path), path.open("rb") as file:
        for number, line in enumerate(iter(lambda: file.readline(_LONGEST), b""), start=1):
            try:
                name = line.decode("utf-8-sig" if number == 1 else "utf-8").split(",")[0].strip()
            except UnicodeDecodeError as error:
                raise UserError(f"{path}, line {number}: not UTF-8 text ({error})") from error
            if len(line) == _LONGEST or (empty and name):
                raise UserError(
                    f"{path}, line {empty or number} is {'empty' if empty else 'too long'}; "
                    "expected `path[,label,width,height]`, a line for every row"
                )
            empty = empty or (0 if name else number)
            if name:
                yield name
