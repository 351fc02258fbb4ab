"""Files of local descriptors in the layouts of AMES and ELViS, HDF5.

`features` is one of

- float16 or float32 [N, n, 5 + D]: row, column, scale, padding flag, weight, descriptor;
- a compound [N, n] of `metadata` [5], the first five, and `descriptor` [D], or uint8 [D / 8], bits
  of signs, the highest first, 1 for +1;
- uint8 [N, n, D / 8], such bits alone; then all-zero descriptors at the end are padding, as the
  layout does not say which are.

Descriptors come strongest first and padding last. The files name no image: their rows are the lines
of a text file `path[,label,width,height]`, or a dataset `index` of the file.
"""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
from etils import epath

from ilias_jax import files
from ilias_jax.errors import UserError, printable, quoted
from ilias_jax.official.features import damage_named, escape, opened, storage_problem, unescape
from ilias_jax.rerank.descriptors import Descriptors

if TYPE_CHECKING:
    import h5py

_PLACE = 5  # numbers beside a descriptor
_FLAG, _WEIGHT = 3, 4
Layout = Literal["columns", "fields", "bits"]
_EXPECTED = (
    "expected float16 or float32 [N, n, 5 + D], a compound [N, n] of `metadata` [5] and "
    "`descriptor`, or uint8 [N, n, D / 8]"
)


@dataclasses.dataclass(frozen=True, eq=False)
class LocalFeatureFile:
    """An opened file of N images; `open_local_features` makes it.

    Attributes:
        path: of the file.
        layout: of its rows.
        count: n, descriptors of an image, padding included.
        dim: D of the descriptors.
        is_binary: whether they are bits.
        ids: of the N images.
    """

    path: epath.Path
    layout: Layout
    count: int
    dim: int
    is_binary: bool
    ids: tuple[str, ...]

    def read(self, rows: np.ndarray) -> Descriptors:
        """The descriptors of rows [m], in any order; a UserError if one cannot be used."""
        with opened(self.path) as file, damage_named(self.path):
            found = np.stack([file["features"][int(row)] for row in rows])
        if self.layout == "bits":
            places = np.zeros((*found.shape[:2], _PLACE), np.float32)
            follows = np.cumsum(np.any(found, axis=2)[:, ::-1], axis=1)[:, ::-1]
            places[..., _FLAG] = follows == 0
            return self._checked(found, places, rows)
        if self.layout == "fields":
            return self._checked(found["descriptor"], found["metadata"].astype(np.float32), rows)
        values, places = found[..., _PLACE:], found[..., :_PLACE].astype(np.float32)
        return self._checked(np.ascontiguousarray(values), places, rows)

    def _checked(self, values: np.ndarray, places: np.ndarray, rows: np.ndarray) -> Descriptors:
        flags = places[..., _FLAG]
        real = flags == 0
        problems = (
            (~np.isin(flags, (0, 1)), "has a padding flag that is neither 0 nor 1"),
            (real & (np.cumsum(~real, axis=1) > 0), "has a descriptor behind its padding"),
            (real & ~np.isfinite(values).all(axis=2), "holds NaN or infinity"),
            (real & ~np.isfinite(places).all(axis=2), "has a place or weight that is not finite"),
        )
        for wrong, complaint in problems:
            if (bad := np.flatnonzero(wrong.any(axis=1))).size:
                row = int(rows[bad[0]])
                raise UserError(
                    f"{self.path}, row {row} ({self.ids[row]}) {complaint}; extract it again"
                )
        values = np.where(real[..., None], values, values.dtype.type(0))
        places = np.where(real[..., None], places, np.float32(0))
        counts = real.sum(axis=1, dtype=np.int32)
        return Descriptors(values, places[..., :2], places[..., _WEIGHT], counts)


def open_local_features(path: epath.Path, ids: epath.Path | None = None) -> LocalFeatureFile:
    """Opens a file and checks everything that can be seen without reading descriptors.

    Args:
        path: of the file.
        ids: text file that names its rows; None if the file has an `index`.

    Raises:
        UserError: a file is missing, damaged or of another layout, or names another number of rows.
    """
    import h5py

    with opened(path) as file, damage_named(path):
        features = file.get("features")
        if not isinstance(features, h5py.Dataset):
            others = printable(", ".join(file))[:200] or "nothing"
            raise UserError(f"{path}: no dataset features, only {others}; {_EXPECTED}")
        if problem := storage_problem(features):
            raise UserError(f"{path}: features {problem}")
        layout, dim, is_binary = _layout_of(features, path)
        names = _read_ids(ids) if ids is not None else _index_of(file, path)
        shape = features.shape
    if len(names) != shape[0]:
        raise UserError(f"{ids or path} names {len(names):,} images and {path} has {shape[0]:,}")
    if len(set(names)) != len(names):
        twice = sorted(name for name in set(names) if names.count(name) > 1)
        raise UserError(f"{ids or path}: {len(twice):,} ids come twice, first {quoted(twice[0])}")
    return LocalFeatureFile(path, layout, shape[1], dim, is_binary, tuple(names))


def _layout_of(features: "h5py.Dataset", path: epath.Path) -> tuple[Layout, int, bool]:
    """Layout, D and whether it is of bits."""
    dtype, shape = features.dtype, features.shape
    if dtype.names == ("descriptor", "metadata") or dtype.names == ("metadata", "descriptor"):
        own, places = dtype["descriptor"], dtype["metadata"]
        numbers = own.base in (np.float16, np.float32, np.uint8) and places.base.kind == "f"
        if len(shape) == 2 and numbers and len(own.shape) == 1 and places.shape == (_PLACE,):
            binary = own.base == np.uint8
            return "fields", own.shape[0] * (8 if binary else 1), binary
    elif len(shape) == 3 and dtype == np.uint8:
        return "bits", 8 * shape[2], True
    elif len(shape) == 3 and dtype in (np.float16, np.float32) and shape[2] > _PLACE:
        return "columns", shape[2] - _PLACE, False
    raise UserError(f"{path}: features is {dtype}{list(shape)}; {_EXPECTED}")


def _index_of(file: "h5py.File", path: epath.Path) -> list[str]:
    if "index" not in file:
        raise UserError(
            f"{path} has no `index` that names its images; name the text file of its rows, "
            "`path[,label,width,height]` a line"
        )
    return [unescape(name.decode()) for name in file["index"][:]]


def _read_ids(path: epath.Path) -> list[str]:
    lines = files.read_bytes(path).decode(errors="replace").splitlines()
    return [line.split(",")[0].strip() for line in lines if line.strip()]


def write_local_features(path: epath.Path, ids: Sequence[str], found: Descriptors) -> None:
    """Writes descriptors of N images: float ones as columns, bits as fields, with an `index`.

    Args:
        path: of the file, written under a temporary name and renamed.
        ids: of the N images.
        found: their descriptors; float16 stays float16.
    """
    import h5py

    count, width = found.values.shape[1:]
    places = np.zeros((len(ids), count, _PLACE), np.float32)
    places[..., :2], places[..., _WEIGHT] = found.locations, found.weights
    places[..., _FLAG] = ~found.mask
    if found.is_binary:
        kinds = [("metadata", np.float32, (_PLACE,)), ("descriptor", np.uint8, (width,))]
        features = np.zeros((len(ids), count), kinds)
        features["metadata"], features["descriptor"] = places, found.values
    else:
        parts = [places.astype(found.values.dtype), found.values]
        features = np.concatenate(parts, axis=2)
    with h5py.File(path.name, "w", driver="core", backing_store=False) as file:
        dtype = h5py.string_dtype(encoding="ascii")
        file.create_dataset("index", data=[escape(name) for name in ids], dtype=dtype)
        file.create_dataset("features", data=features)
        file.flush()
        files.write_bytes(path, file.id.get_file_image())
