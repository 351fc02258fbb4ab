"""Official feature files: what is written, what is read, what is refused."""

import gzip
import subprocess
import sys

import h5py
import numpy as np
import pytest
from etils import epath

from ilias_jax.errors import UserError
from ilias_jax.official import features
from ilias_jax.official.features import (
    escape,
    feature_paths,
    open_features,
    unescape,
    write_features,
)


def _unit(num_rows, dim=6, dtype=np.float16, seed=0):
    rows = np.random.default_rng(seed).normal(size=(num_rows, dim))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(dtype)


def _write(folder, name="f.hdf5", index=None, **datasets):
    """A file of any content."""
    path = epath.Path(folder) / name
    with h5py.File(str(path), "w") as file:
        if index is not None:
            file.create_dataset("index", data=index)
        for key, value in datasets.items():
            file.create_dataset(key, data=value)
    return path


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_written_rows_read_back_to_the_bit(tmp_path, dtype):
    ids, vectors = ["b/pos/é.jpg", "a/pos/1.jpg", "x.tar/日本"], _unit(3, dtype=dtype)
    path = epath.Path(tmp_path) / "new" / "f.hdf5"
    write_features(path, ids, vectors)
    source = open_features(path)
    assert source.num_rows() == 3 and source.shape == (3, 6) and source.dtype == dtype
    assert source.ids() == ids
    np.testing.assert_array_equal(source.vectors(), vectors)
    assert [p.name for p in path.parent.iterdir()] == ["f.hdf5"]


def test_the_layout_is_the_toolkits(tmp_path):
    path = tmp_path / "f.hdf5"
    write_features(epath.Path(path), ["mug/pos/é.jpg"], _unit(1))
    with h5py.File(path) as file:
        assert sorted(file) == ["features", "index"]
        assert file["index"].asstr()[:].tolist() == ["mug/pos/#U00e9.jpg"]
        assert h5py.check_string_dtype(file["index"].dtype).encoding == "ascii"
        assert file["features"].dtype == np.float16


def test_the_same_rows_give_the_same_bytes(tmp_path):
    paths = [epath.Path(tmp_path) / name for name in ("a.hdf5", "b.hdf5")]
    for path in paths:
        write_features(path, ["a", "b"], _unit(2))
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_buckets_are_written_and_read_through_streams(tmp_path, monkeypatch):
    monkeypatch.setattr(features, "is_local", lambda path: False)
    path = epath.Path(tmp_path) / "f.hdf5"
    write_features(path, ["a", "b"], _unit(2))
    source = open_features(path)
    assert source.ids() == ["a", "b"]
    np.testing.assert_array_equal(source.vectors(), _unit(2))


def test_no_rows(tmp_path):
    path = epath.Path(tmp_path) / "f.hdf5"
    write_features(path, [], np.zeros((0, 6), np.float16))
    source = open_features(path)
    assert source.ids() == [] and source.vectors().shape == (0, 6) and not list(source.blocks(3))


@pytest.mark.parametrize("level", [0, 4])
@pytest.mark.parametrize("encoding", ["ascii", "utf-8", "fixed"])
def test_gzip_chunks_and_every_kind_of_string(tmp_path, monkeypatch, level, encoding):
    monkeypatch.setattr(features, "_BYTES_AT_ONCE", 7 * 12)  # 7 rows; a chunk has 5
    path, vectors = tmp_path / "f.hdf5", _unit(23)
    ids = [f"a.tar/{row:03d}" for row in range(23)]
    dtype = "S9" if encoding == "fixed" else h5py.string_dtype(encoding)
    with h5py.File(path, "w") as file:
        file.create_dataset("index", data=ids, dtype=dtype)
        options = {"compression": "gzip", "compression_opts": level, "chunks": (5, 2)}
        file.create_dataset("features", data=vectors, **options)
    source = open_features(epath.Path(path))
    assert source.ids() == ids
    np.testing.assert_array_equal(source.vectors(), vectors)
    for num_rows in (4, 23, 100):
        blocks = list(source.blocks(num_rows))
        np.testing.assert_array_equal(np.concatenate(blocks), vectors)
        assert all(len(block) == num_rows for block in blocks[:-1])
    indices = np.array([[22, 0, 7], [8, 22, 9]])
    for rows in (indices, np.arange(23), np.arange(3, 20), np.zeros((0, 2), int)):
        np.testing.assert_array_equal(source.rows(rows), vectors[rows])
    with pytest.raises(IndexError, match=r"rows 0\.\.23 of 23"):
        source.rows(np.array([0, 23]))
    assert source.place_of(22) == f"{path}, row 22 (a.tar/022)"


def test_blocks_are_read_as_they_are_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(features, "_BYTES_AT_ONCE", 4 * 12)
    vectors = _unit(12)
    vectors[8] = np.nan  # in the third piece
    path = _write(tmp_path, index=[b"i"] * 12, features=vectors)
    blocks = open_features(path).blocks(4)
    assert len(next(blocks)) == len(next(blocks)) == 4
    with pytest.raises(UserError, match="row 8"):
        next(blocks)


def test_rounding_is_no_lack_of_a_norm(tmp_path):
    rows = _unit(50, 768)
    rows = (rows.astype(np.float32) * 1.004).astype(np.float16)
    path = _write(tmp_path, index=[b"i"] * 50, features=rows)
    np.testing.assert_array_equal(open_features(path).vectors(), rows)


def test_rows_are_normalized_if_asked_for(tmp_path):
    rows = (_unit(5, dtype=np.float32) * 3).astype(np.float16)
    path = _write(tmp_path, index=[b"i"] * 5, features=rows)
    wide = rows.astype(np.float32)
    expected = wide / np.linalg.norm(wide, axis=1, keepdims=True)
    source = open_features(path, normalize=True)
    np.testing.assert_allclose(source.vectors(), expected, rtol=1e-6)
    chosen = source.rows(np.array([4, 1]))
    assert chosen.dtype == np.float32
    np.testing.assert_array_equal(chosen, source.vectors()[[4, 1]])


def _changed(row, value):
    rows = _unit(4, dtype=np.float32)
    rows[row] = value
    return rows


IDS = [b"a", b"b", b"c", b"caf#U00e9"]


@pytest.mark.parametrize(
    ("rows", "normalize", "message"),
    [
        (_changed(1, np.nan), False, r"row 1 \(b\) holds NaN or infinity; extract it again"),
        (_changed(2, np.inf), True, r"row 2 \(c\) holds NaN or infinity"),
        (
            _changed(3, 0.9),
            False,
            r"row 3 \(café\) has length 2\.205 and not 1 \(0\.99 to 1\.01 .*--normalize",
        ),
        (_changed(0, 0), True, r"row 0 \(a\) is all zeros and has no direction"),
        (_changed(0, 0), False, r"row 0 \(a\) has length 0 and not 1"),
    ],
)
def test_rows_that_no_search_may_see(tmp_path, rows, normalize, message):
    source = open_features(_write(tmp_path, index=IDS, features=rows), normalize)
    with pytest.raises(UserError, match=r"f\.hdf5, " + message):
        source.vectors()
    with pytest.raises(UserError, match=r"f\.hdf5, " + message):
        source.rows(np.arange(4))


@pytest.mark.parametrize("gap", [0, 40, 10**6])
def test_picked_rows_are_the_same_whatever_is_read_together(tmp_path, monkeypatch, gap):
    monkeypatch.setattr(features, "_GAP_BYTES", gap)
    monkeypatch.setattr(features, "_BYTES_AT_ONCE", 20 * 12)
    rows, rng = _unit(90), np.random.default_rng(0)
    source = open_features(_write(tmp_path, index=[b"i"] * 90, features=rows))
    for count in (1, 5, 60, 200):
        chosen = rng.integers(90, size=count)
        np.testing.assert_array_equal(source.rows(chosen), rows[chosen])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"features": _unit(2)}, "no dataset index, only features; an official feature file has"),
        ({"index": [b"a"]}, "no dataset features, only index"),
        ({"x": [1]}, "no dataset features and no index, only x"),
        ({}, "no dataset features and no index, only nothing"),
        ({"features": _unit(2), "index": [b"a"]}, "features has 2 rows and index 1 ids"),
        ({"features": _unit(2), "index": [1, 2]}, r"index is int64\[2\]; expected N strings"),
        (
            {"features": _unit(2, dtype=np.float64), "index": [b"a", b"b"]},
            r"features is float64\[2, 6\]; expected float16 or float32 of shape \[N, D\]",
        ),
        ({"features": _unit(2)[0], "index": [b"a"] * 6}, r"features is float16\[6\]; expected"),
    ],
)
def test_other_layouts_are_named(tmp_path, content, message):
    with pytest.raises(UserError, match=r"f\.hdf5: " + message):
        open_features(_write(tmp_path, **content))


def test_a_group_is_no_dataset(tmp_path):
    path = tmp_path / "f.hdf5"
    with h5py.File(path, "w") as file:
        file.create_group("features")
        file.create_dataset("index", data=[b"a"])
    with pytest.raises(UserError, match="no dataset features, only features, index"):
        open_features(epath.Path(path))


def test_files_that_are_none(tmp_path):
    path = epath.Path(tmp_path) / "f.hdf5"
    with pytest.raises(UserError, match=r"f\.hdf5: no such file"):
        open_features(path)
    path.write_text("<html>404</html>")
    with pytest.raises(UserError, match=r"f\.hdf5 is no HDF5 file, it begins with b'<html>40'"):
        open_features(path)
    path.write_bytes(gzip.compress(b"features"))
    with pytest.raises(UserError, match=r"is no HDF5 file but a file packed with gzip; unpack it"):
        open_features(path)
    write_features(path, list(map(str, range(500))), _unit(500))
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(UserError, match=r"f\.hdf5 is an HDF5 file that is damaged or was cut sh"):
        open_features(path)


def _sparse(file):
    file.create_dataset("features", (10**10, 6), np.float16, chunks=(1000, 6))
    file["features"][:1000] = 1


def _with_filter(file):
    file.create_dataset("features", data=_unit(9), chunks=(9, 6), compression="lzf")


ODD = {
    "null": (
        lambda file: file.create_dataset("features", data=h5py.Empty("f2")),
        "features is a dataset without any value",
    ),
    "soft link": (
        lambda file: file.__setitem__("features", h5py.SoftLink("/nothing")),
        "features: a link to what is not there",
    ),
    "external link": (
        lambda file: file.__setitem__("features", h5py.ExternalLink("none.h5", "/x")),
        "features: a link to what is not there",
    ),
    "a claim of 120 GB": (
        lambda file: file.create_dataset("features", (10**10, 6), np.float16),
        "of which only a part was ever written",
    ),
    "a claim in chunks": (_sparse, "of which only a part was ever written"),
    "a huge chunk": (
        lambda file: file.create_dataset("features", (10, 2**27), np.float16, chunks=(10, 2**27)),
        "at most 268,435,456 bytes are allowed",
    ),
    "a filter": (_with_filter, r"features is compressed with filter 32000 \(b'lzf'\)"),
}


@pytest.mark.parametrize("name", ODD)
def test_how_a_dataset_is_stored_is_seen_before_it_is_read(tmp_path, name, monkeypatch):
    make, message = ODD[name]
    path = _write(tmp_path, index=[b"a"] * 9)
    with h5py.File(path, "a") as file:
        make(file)
    if name == "a filter":
        monkeypatch.setattr(h5py.h5z, "filter_avail", lambda code: False)
    with pytest.raises(UserError, match=message):
        open_features(path)


def test_rows_that_were_never_written_have_no_ids(tmp_path):
    path = _write(tmp_path, features=_unit(4))
    with h5py.File(path, "a") as file:
        file.create_dataset("index", (4,), h5py.string_dtype())[0] = "a"
    with pytest.raises(UserError, match="3 of 4 rows have no id, first row 1; the file was not"):
        open_features(path).ids()


@pytest.mark.parametrize("end", ["holds it", "has died"])
def test_a_file_that_is_being_written_is_no_damaged_one(tmp_path, end):
    path = tmp_path / "f.hdf5"
    code = (
        f"import h5py, os; file = h5py.File({str(path)!r}, 'w', libver='latest'); "
        "file['features'] = [[1.0]]; file.swmr_mode = True; file.flush(); print('ready', flush=True)"
    )
    code += "; input()" if end == "holds it" else "; os._exit(0)"
    command = [sys.executable, "-c", code]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, **pipes) as process:
        assert process.stdout.readline() == b"ready\n"
        if end == "has died":
            process.wait()
        with pytest.raises(UserError, match="is (being|marked as being) written"):
            open_features(epath.Path(path))
        process.stdin.close()


def test_a_damaged_chunk_is_named(tmp_path):
    path = tmp_path / "f.hdf5"
    with h5py.File(path, "w") as file:
        file.create_dataset("index", data=[b"\xff"] * 40)
        file.create_dataset("features", data=_unit(40), compression="gzip", chunks=(40, 6))
        place = file["features"].id.get_chunk_info(0).byte_offset
    data = bytearray(path.read_bytes())
    data[place : place + 20] = bytes(20)
    path.write_bytes(data)
    source = open_features(epath.Path(path))
    with pytest.raises(UserError, match=r"f\.hdf5 is damaged .*; copy it again"):
        source.vectors()
    with pytest.raises(UserError, match=r"f\.hdf5 is damaged .*utf-8.*; copy it again"):
        source.ids()


# What the official extraction writes for each.
OFFICIAL = {
    "mug_012/pos/P012_03.jpg": "mug_012/pos/P012_03.jpg",
    "café/x.jpg": "caf#U00e9/x.jpg",
    "ÿĀ": "#U00ff#U0100",
    "日本": "#U65e5#U672c",
    "ı'": "#U0131'",
    "😀": r"\\U0001f600",
}


@pytest.mark.parametrize(("name", "text"), OFFICIAL.items())
def test_both_ways(name, text):
    assert escape(name) == text
    assert unescape(text) == name


@pytest.mark.parametrize("text", ["#U12", "#Uxyz0", r"\\Uffffffff", "#u00e9", "a#b", "a\\b"])
def test_what_is_no_escape_stays(text):
    assert unescape(text) == text


def test_an_id_that_looks_escaped_is_refused():
    with pytest.raises(UserError, match="'a#U00e9' cannot be written .* rename the image"):
        escape("a#U00e9")


def _touch(folder, *names):
    for name in names:
        (folder / name).touch()


def _names(paths):
    return [path.name for path in paths]


def test_a_template_is_all_of_its_files_in_order(tmp_path):
    _touch(tmp_path, *(f"d_{i:05d}.hdf5" for i in (2, 0, 1)), "d_x.hdf5", "d_00009.hdf5.tmp")
    template = f"{tmp_path}/d_{{idx}}.hdf5"
    assert _names(feature_paths([template])) == ["d_00000.hdf5", "d_00001.hdf5", "d_00002.hdf5"]
    assert _names(feature_paths([template], 2)) == ["d_00000.hdf5", "d_00001.hdf5"]


def test_a_gap_is_no_smaller_database(tmp_path):
    _touch(tmp_path, "d_00000.hdf5", "d_00003.hdf5")
    template = f"{tmp_path}/d_{{idx}}.hdf5"
    with pytest.raises(
        UserError, match=r"2 of the 4 files of .*d_\{idx\}.*.*d_00001\.hdf5.*smaller"
    ):
        feature_paths([template])
    with pytest.raises(UserError, match="1 of the 2 files"):
        feature_paths([template], 2)
    with pytest.raises(UserError, match="1 of the 1 files"):
        feature_paths([f"{tmp_path}/none_{{idx}}.hdf5"])


def test_wildcards_and_lists(tmp_path):
    _touch(tmp_path, "f10.h5", "f2.h5", "f1.h5", "g.h5")
    assert _names(feature_paths([f"{tmp_path}/f*.h5"])) == ["f1.h5", "f2.h5", "f10.h5"]
    both = feature_paths([f"{tmp_path}/g.h5", f"{tmp_path}/f?.h5"])
    assert _names(both) == ["g.h5", "f1.h5", "f2.h5"]


@pytest.mark.parametrize(
    ("words", "total", "message"),
    [
        (["none.h5"], None, "none.h5: no such file"),
        (["x*.h5"], None, r"x\*.h5: no such file; wildcards may stand in the file's name alone"),
        (["g.h5", "g.h5"], None, "named more than once: .*g.h5"),
        (["g.h5"], 3, r"--total_distractors 3 goes with one template such as .*\{idx\}"),
        (["g_{idx}.h5"], 0, "--total_distractors 0 .* is at least 1"),
        ([], 2, "--total_distractors 2 goes with one template"),
        (["{idx}/g_{idx}.h5"], None, r"\{idx\} stands once, in the file's name"),
    ],
)
def test_messages_about_paths(tmp_path, monkeypatch, words, total, message):
    monkeypatch.chdir(tmp_path)
    _touch(tmp_path, "g.h5")
    with pytest.raises(UserError, match=message):
        feature_paths(words, total)
