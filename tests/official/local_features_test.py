"""Files of local descriptors in the layouts of AMES and ELViS."""

import pathlib
import subprocess
import sys

import h5py
import numpy as np
import pytest
from etils import epath

from ilias_jax.errors import UserError
from ilias_jax.official import local_features, local_features_writer
from ilias_jax.official.local_features import open_local_features
from ilias_jax.official.local_features_writer import write_local_features
from ilias_jax.rerank.descriptors import Descriptors, concatenated

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


def _columns(found: Descriptors, width: int = 6) -> np.ndarray:
    """As the authors' code lays them out; of bits without their values."""
    columns = np.zeros((3, 4, 5 + width), np.float32)
    for image, count in enumerate(COUNTS):
        columns[image, :count, 0:2] = found.locations[image, :count]
        columns[image, :count, 4] = found.weights[image, :count]
        if not found.is_binary:
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
    assert [*opened.ids()] == IDS and opened.is_binary == (dtype == "uint8")
    assert opened.dim == (16 if dtype == "uint8" else 6)
    _assert_equal(opened.read(np.arange(3)), found)
    _assert_equal(opened.read(np.array([2, 0, 0])), found.take(np.array([2, 0, 0])))
    _assert_equal(opened.read(np.array([1, 0]), 3), found.take(np.array([1, 0])).strongest(3))
    assert opened.read(np.zeros(0, int)).values.shape == (0, *found.values.shape[1:])
    for blocks in (opened.blocks(2), opened.blocks(5)):
        _assert_equal(concatenated([*blocks]), found)
    with pytest.raises(IndexError, match=r"rows 0\.\.3 of 3"):
        opened.read(np.array([0, 3]))


@pytest.mark.parametrize("dtype", ["float32", "uint8"])
def test_parts_are_written_one_by_one_and_to_buckets(tmp_path, dtype, monkeypatch):
    found, paths = _found(dtype), [epath.Path(tmp_path / f"{n}.hdf5") for n in range(4)]
    write_local_features(paths[0], IDS, found)
    write_local_features(paths[1], IDS, (found.take(np.array([n])) for n in range(3)))
    monkeypatch.setattr(local_features_writer, "is_local", lambda path: False)
    write_local_features(paths[2], IDS, found)
    assert len({path.read_bytes() for path in paths[:3]}) == 1
    for images in (np.arange(2), np.array([0, 1, 2, 2])):
        with pytest.raises(ValueError, match="images"):
            write_local_features(paths[3], IDS, found.take(images))
    assert not paths[3].exists()


@pytest.mark.parametrize("limit", [500, 2**16, 468_000])
def test_a_full_disk_is_an_error_and_no_crash(tmp_path, limit):
    """The process ends by itself, with what was there before left as it was."""
    code = """
import resource, signal, sys
import numpy as np
from etils import epath
from ilias_jax.errors import UserError
from ilias_jax.official.local_features_writer import write_local_features
from ilias_jax.rerank.descriptors import Descriptors, concatenated
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, 2 * (int(sys.argv[2]),))
places = np.zeros((100, 90, 2), np.float32)
found = Descriptors(np.ones((100, 90, 8), np.float32), places, places[..., 0], np.full(100, 90))
try:
    write_local_features(epath.Path(sys.argv[1]), [str(n) for n in range(100)], found)
except UserError as error:
    print(error)
"""
    path = tmp_path / "local.hdf5"
    path.write_text("old")
    done = subprocess.run(
        [sys.executable, "-c", code, path, str(limit)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert f"{path} cannot be written (File too large)" in done.stdout
    assert path.read_text() == "old" and [*tmp_path.iterdir()] == [path]


def test_the_authors_columns_are_read_and_written(tmp_path):
    found = _found()
    names = tmp_path / "test_query.txt"
    names.write_text("\ufeffa.jpg,3,640,480\r\nb.jpg , 4,10,10\nc.jpg\n\n")
    path = _write(tmp_path / "local.hdf5", _columns(found))
    opened = open_local_features(path, epath.Path(names))
    assert [*opened.ids()] == ["a.jpg", "b.jpg", "c.jpg"]
    _assert_equal(opened.read(np.arange(3)), found)
    write_local_features(epath.Path(tmp_path / "ours.hdf5"), [*opened.ids()], found)
    with h5py.File(tmp_path / "ours.hdf5") as file:
        np.testing.assert_array_equal(file["features"][:], _columns(found))


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("per", ["descriptor", "image"])
def test_compounds_of_either_shape(tmp_path, per, binary):
    """As numpy's field access gives the same array of both."""
    found = _found("uint8" if binary else "float16")
    width = found.values.shape[2]
    inner = () if per == "descriptor" else (4,)
    kinds = [
        ("metadata", np.float32, (*inner, 5)),
        ("descriptor", found.values.dtype, (*inner, width)),
    ]
    features = np.zeros((3, 4) if per == "descriptor" else 3, kinds)
    features["metadata"] = _columns(_found("uint8" if binary else "float16"))[..., :5]
    features["descriptor"] = found.values
    opened = open_local_features(_write(tmp_path / "local.hdf5", features, IDS))
    assert (opened.layout, opened.count) == ("fields", 4)
    assert opened.dim == (16 if binary else 6)
    _assert_equal(opened.read(np.array([1, 0])), found.take(np.array([1, 0])))
    _assert_equal(opened.read(np.array([0]), 2), found.take(np.array([0])).strongest(2))


@pytest.mark.parametrize("options", [{}, {"chunks": (2, 3, 5), "compression": "gzip"}])
def test_rows_are_the_same_whatever_is_read_together(tmp_path, monkeypatch, options):
    rng = np.random.default_rng(1)
    values = rng.integers(1, 256, (23, 4, 5), np.uint8)
    path = tmp_path / "bits.hdf5"
    with h5py.File(path, "w") as file:
        file.create_dataset("features", data=values, **options)
        file.create_dataset("ids", data=[f"caf#U00e9/{n}" for n in range(23)])
    opened = open_local_features(epath.Path(path))
    assert [*opened.ids()][7] == "café/7"
    rows = rng.integers(23, size=40)
    for size in (1, 3 * 4 * 25, 2**26):
        monkeypatch.setattr(local_features, "_BYTES_AT_ONCE", size)
        np.testing.assert_array_equal(opened.read(rows).values, values[rows])
        np.testing.assert_array_equal(opened.read(rows, 2).values, values[rows, :2])


def test_only_what_is_asked_for_is_read_at_once(tmp_path, monkeypatch):
    """Far rows are not read along with what lies between them."""
    columns = np.ones((50, 4, 7), np.float32)
    columns[..., 3] = 0
    path = _write(tmp_path / "local.hdf5", columns, list(map(str, range(50))))
    read, plain = [], h5py.Dataset.__getitem__

    def spied(dataset, chosen):
        found = plain(dataset, chosen)
        read.append(found.shape)
        return found

    monkeypatch.setattr(h5py.Dataset, "__getitem__", spied)
    open_local_features(path).read(np.array([49, 0, 1, 20]), 3)
    assert read == [(2, 3, 7), (1, 3, 7), (1, 3, 7)]


def test_bits_alone_have_zeros_as_padding(tmp_path):
    """A descriptor of zeros before the last real one is real: all its signs are negative."""
    values = _found("uint8").values[:2].copy()
    values[0, 1] = 0
    opened = open_local_features(_write(tmp_path / "bits.hdf5", values, IDS[:2]))
    found = opened.read(np.arange(2))
    assert found.counts.tolist() == COUNTS[:2].tolist()
    assert found.dense()[0, 1].tolist() == [-1] * 16
    assert opened.read(np.arange(2), 2).counts.tolist() == [2, 2]
    bit = int(values[0, 0, 0]) >> 7
    assert found.dense()[0, 0, 0] == 2 * bit - 1
    write_local_features(epath.Path(tmp_path / "ours.hdf5"), IDS[:2], found, "bits")
    with h5py.File(tmp_path / "ours.hdf5") as file:
        np.testing.assert_array_equal(file["features"][:], values)


def test_bits_are_numpys_highest_first():
    signs = np.random.default_rng(0).standard_normal((1, 2, 16)) > 0
    packed = np.packbits(signs, axis=-1)
    places = np.zeros((1, 2, 2), np.float32)
    found = Descriptors(packed, places, places[..., 0], np.array([2], np.int32))
    np.testing.assert_array_equal(found.dense() > 0, signs)
    assert packed[0, 0, 0] >> 7 == signs[0, 0, 0]


BAD = {
    "nan": (lambda c: c.__setitem__((0, 1, 7), np.nan), r"row 0 \(a\) holds NaN"),
    "infinity": (lambda c: c.__setitem__((1, 1, 7), -np.inf), r"row 1 \(b\) holds NaN or inf"),
    "flag": (lambda c: c.__setitem__((1, 0, 3), 0.5), r"row 1 \(b\) has a padding flag .* 0 nor 1"),
    "flag nan": (lambda c: c.__setitem__((2, 0, 3), np.nan), r"row 2 \(c\) has a padding flag"),
    "behind": (lambda c: c.__setitem__((0, 1, 3), 1), r"row 0 \(a\) has a descriptor behind"),
    "weight": (lambda c: c.__setitem__((0, 0, 4), np.inf), r"row 0 \(a\) has a place or weight"),
    "never written": (lambda c: c.__setitem__(1, 0), r"row 1 \(b\) holds zeros .* never written"),
    "a zero": (lambda c: c.__setitem__((0, 3, slice(5, None)), 0), r"row 0 \(a\) holds zeros"),
}


@pytest.mark.parametrize("case", BAD)
def test_descriptors_that_cannot_be_used_are_named(tmp_path, case):
    change, message = BAD[case]
    columns = _columns(_found())
    change(columns)
    opened = open_local_features(_write(tmp_path / "local.hdf5", columns, ["a", "b", "c"]))
    with pytest.raises(UserError, match=message + ".*; extract it again"):
        opened.read(np.arange(3))


def test_padding_may_hold_anything(tmp_path):
    columns = _columns(_found())
    columns[1, 2:, 5:], columns[1, 3, :3] = np.nan, np.inf
    found = open_local_features(_write(tmp_path / "local.hdf5", columns, IDS)).read(np.arange(3))
    _assert_equal(found, _found())


@pytest.mark.parametrize("layout", ["bits", "fields"])
def test_bits_that_were_never_written_are_named(tmp_path, layout):
    found, path = _found("uint8"), epath.Path(tmp_path / "local.hdf5")
    found = found.take(np.array([0, 1]))
    write_local_features(path, ["a", "b"], found, layout)
    with h5py.File(path, "a") as file:
        file["features"][1] = np.zeros_like(file["features"][1])
    opened = open_local_features(path)
    assert len(opened.read(np.array([0]))) == 1
    with pytest.raises(UserError, match=r"row 1 \(b\) holds zeros for descriptors, as what was"):
        opened.read(np.array([1]))


def test_other_layouts_are_refused(tmp_path):
    columns = _columns(_found())
    odd = np.zeros((3, 4), [("metadata", np.float32, (4,)), ("descriptor", np.uint8, (2,))])
    for features, index, message in (
        (columns[:, :, :5], IDS, r"float32\[3, 4, 5\]; expected"),
        (columns.astype(np.float64), IDS, r"float64\[3, 4, 11\]; expected"),
        (columns[0], IDS, r"float32\[4, 11\]; expected"),
        (columns[:, :0], IDS, r"float32\[3, 0, 11\]; expected"),
        (odd, IDS, r"features is .*metadata.*\[3, 4\]; expected"),
        (columns, IDS[:2], r"index names 2 images and features has 3"),
        (columns, [1, 2, 3], r"index is int64\[3\]; expected N strings"),
        (columns, None, r"no `index` .* name the text file of its rows"),
    ):
        path = _write(tmp_path / "local.hdf5", features, index)
        with pytest.raises(UserError, match=r"local\.hdf5: .*" + message):
            open_local_features(path)
    with h5py.File(tmp_path / "local.hdf5", "w") as file:
        file["descriptors"] = columns
    with pytest.raises(UserError, match="no dataset features, only descriptors; expected float16"):
        open_local_features(epath.Path(tmp_path / "local.hdf5"))
    (tmp_path / "other.hdf5").write_bytes(b"PK\x03\x04")
    with pytest.raises(UserError, match="is no HDF5 file"):
        open_local_features(epath.Path(tmp_path / "other.hdf5"))


TEXTS = {
    "fewer": (b"a\nb\n", "names 2 images and .*local.hdf5 has 3; they do not belong together"),
    "more": (b"a\nb\nc\nd", "names 4 images and .*local.hdf5 has 3"),
    "a gap": (b"a\n\nb\nc\n", "t.txt, line 2 is empty; expected `path"),
    "no path": (b"a\n,3,4,4\nc\n", "t.txt, line 2 is empty"),
    "latin": (b"a\nb\xff\nc\n", "t.txt, line 2: not UTF-8 text"),
    "long": (b"a\n" + 70_000 * b"b", "t.txt, line 2 is too long"),
}


@pytest.mark.parametrize("case", TEXTS)
def test_texts_that_do_not_name_the_rows(tmp_path, case):
    content, message = TEXTS[case]
    (tmp_path / "t.txt").write_bytes(content)
    path = _write(tmp_path / "local.hdf5", _columns(_found()))
    opened = open_local_features(path, epath.Path(tmp_path / "t.txt"))
    with pytest.raises(UserError, match=message):
        [*opened.ids()]
    with pytest.raises(UserError, match="none.txt: no such file"):
        open_local_features(path, epath.Path(tmp_path / "none.txt"))


def test_rows_without_an_id_were_never_written(tmp_path):
    path = _write(tmp_path / "local.hdf5", _columns(_found()), ["a", "", ""])
    with pytest.raises(UserError, match="row 1 has no id"):
        [*open_local_features(path).ids()]


def test_merged_files_are_read_if_all_parts_are_there(tmp_path):
    """HDF5 itself reads zeros for a part that is gone."""
    columns = _columns(_found())
    _write(tmp_path / "xa.hdf5", columns[:1])
    _write(tmp_path / "xb.hdf5", columns[1:])
    layout = h5py.VirtualLayout(columns.shape, columns.dtype)
    layout[:1] = h5py.VirtualSource("xa.hdf5", "features", (1, *columns.shape[1:]))
    layout[1:] = h5py.VirtualSource("xb.hdf5", "features", (2, *columns.shape[1:]))
    with h5py.File(tmp_path / "local.hdf5", "w") as file:
        file.create_virtual_dataset("features", layout)
        file["index"] = IDS
    path = epath.Path(tmp_path / "local.hdf5")
    _assert_equal(open_local_features(path).read(np.array([2, 0])), _found().take(np.array([2, 0])))
    (tmp_path / "xb.hdf5").rename(tmp_path / "moved")
    with pytest.raises(UserError, match="made of files of which 'xb.hdf5' is not there"):
        open_local_features(path)
