"""Files of local descriptors in the layouts of AMES and ELViS."""

import pathlib

import h5py
import numpy as np
import pytest
from etils import epath

from ilias_jax.errors import UserError
from ilias_jax.official.local_features import open_local_features, write_local_features
from ilias_jax.rerank.descriptors import Descriptors

IDS = ["mug/query/a.jpg", "été/query/b.jpg", "c"]
COUNTS = np.array([4, 2, 0], np.int32)


def _found(dtype: str = "float32") -> Descriptors:
    rng = np.random.default_rng(0)
    real = (np.arange(4) < COUNTS[:, None])[..., None]
    if dtype == "uint8":
        values = np.where(real, rng.integers(1, 256, (3, 4, 2), np.uint8), np.uint8(0))
    else:
        values = np.where(real, rng.standard_normal((3, 4, 6)), 0).astype(dtype)
    places = np.where(real, rng.random((3, 4, 3)), 0).astype(np.float16).astype(np.float32)
    return Descriptors(values, places[..., :2], places[..., 2], COUNTS)


def _columns(found: Descriptors) -> np.ndarray:
    """As the authors' code lays them out."""
    columns = np.zeros((3, 4, 11), np.float32)
    for image, count in enumerate(COUNTS):
        columns[image, :count, 0:2] = found.locations[image, :count]
        columns[image, :count, 4] = found.weights[image, :count]
        columns[image, :count, 5:] = found.values[image, :count]
        columns[image, count:, 3] = 1
    return columns


def _write(path: pathlib.Path, features: np.ndarray, index: list[str] | None = None) -> epath.Path:
    with h5py.File(path, "w") as file:
        file.create_dataset("features", data=features)
        if index is not None:
            file.create_dataset("index", data=index)
    return epath.Path(path)


def _assert_equal(one: Descriptors, other: Descriptors) -> None:
    for name, array in vars(one).items():
        np.testing.assert_array_equal(array, getattr(other, name), err_msg=name)


@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8"])
def test_what_is_written_is_read(tmp_path, dtype):
    found, path = _found(dtype), epath.Path(tmp_path / "local.hdf5")
    write_local_features(path, IDS, found)
    opened = open_local_features(path)
    assert opened.ids == tuple(IDS) and opened.is_binary == (dtype == "uint8")
    assert opened.dim == (16 if dtype == "uint8" else 6)
    _assert_equal(opened.read(np.arange(3)), found)
    _assert_equal(opened.read(np.array([2, 0, 0])), found.take(np.array([2, 0, 0])))


def test_the_authors_columns_are_read_and_written(tmp_path):
    found = _found()
    names = tmp_path / "test_query.txt"
    names.write_text("a.jpg,3,640,480\nb.jpg,4,10,10\n\nc.jpg\n")
    path = _write(tmp_path / "local.hdf5", _columns(found))
    opened = open_local_features(path, epath.Path(names))
    assert opened.ids == ("a.jpg", "b.jpg", "c.jpg")
    _assert_equal(opened.read(np.arange(3)), found)
    write_local_features(epath.Path(tmp_path / "ours.hdf5"), opened.ids, found)
    with h5py.File(tmp_path / "ours.hdf5") as file:
        np.testing.assert_array_equal(file["features"][:], _columns(found))


def test_bits_alone_have_zeros_as_padding(tmp_path):
    """A descriptor of zeros before the last real one is real: all its signs are negative."""
    values = _found("uint8").values.copy()
    values[0, 1] = 0
    opened = open_local_features(_write(tmp_path / "bits.hdf5", values, IDS))
    found = opened.read(np.arange(3))
    assert found.counts.tolist() == COUNTS.tolist()
    assert found.dense()[0, 1].tolist() == [-1] * 16
    bit = int(values[0, 0, 0]) >> 7
    assert found.dense()[0, 0, 0] == 2 * bit - 1


BAD = {
    "nan": (lambda c: c.__setitem__((0, 1, 7), np.nan), r"row 0 \(a\) holds NaN"),
    "flag": (lambda c: c.__setitem__((1, 0, 3), 0.5), r"row 1 \(b\) has a padding flag .* 0 nor 1"),
    "behind": (lambda c: c.__setitem__((0, 1, 3), 1), r"row 0 \(a\) has a descriptor behind"),
    "weight": (lambda c: c.__setitem__((0, 0, 4), np.inf), r"row 0 \(a\) has a place or weight"),
}


@pytest.mark.parametrize("case", BAD)
def test_descriptors_that_cannot_be_used_are_named(tmp_path, case):
    change, message = BAD[case]
    columns = _columns(_found())
    change(columns)
    opened = open_local_features(_write(tmp_path / "local.hdf5", columns, ["a", "b", "c"]))
    with pytest.raises(UserError, match=message):
        opened.read(np.arange(3))


def test_other_layouts_are_refused(tmp_path):
    columns = _columns(_found())
    for features, index, message in (
        (columns[:, :, :5], IDS, r"float32\[3, 4, 5\]; expected"),
        (columns.astype(np.float64), IDS, r"float64\[3, 4, 11\]; expected"),
        (columns[0], IDS, r"float32\[4, 11\]; expected"),
        (columns, IDS[:2], r"names 2 images and .* has 3"),
        (columns, ["a", "b", "a"], r"1 ids come twice, first 'a'"),
        (columns, None, r"has no `index` .* name the text file of its rows"),
    ):
        path = _write(tmp_path / "local.hdf5", features, index)
        with pytest.raises(UserError, match=message):
            open_local_features(path)
    (tmp_path / "other.hdf5").write_bytes(b"PK\x03\x04")
    with pytest.raises(UserError, match="is no HDF5 file"):
        open_local_features(epath.Path(tmp_path / "other.hdf5"))
