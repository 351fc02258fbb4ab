"""Rows of nearest neighbours: our files, AMES's tensors, and what float32 cannot say."""

import pathlib
import pickle
import re

import h5py
import numpy as np
import pytest
from etils import epath

from ilias_jax.errors import UserError
from ilias_jax.official.neighbours import read_neighbours, write_neighbours
from ilias_jax.search.ranking import Ranking

DATA = pathlib.Path(__file__).parents[1] / "data" / "rerank"
SIMILARITIES = np.array([[0.9, 0.5, 0.25], [0.75, 0.5, -0.125]], np.float32)
ROWS = np.array([[4, 0, 2], [1, 3, 0]])
QUERIES = ("q/é.jpg", "q/b.jpg")


def _tensor(name: str) -> epath.Path:
    return epath.Path(DATA / f"nn_{name}.pkl")


@pytest.mark.parametrize(("name", "first"), [("two", 0), ("three", 0), ("view", 1)])
def test_tensors_of_ames_are_read(name, first):
    found = read_neighbours(_tensor(name))
    np.testing.assert_array_equal(found.index, ROWS[:, first:])
    np.testing.assert_array_equal(found.similarity, SIMILARITIES[:, first:])
    assert found.index.dtype == np.int64 and found.is_float
    assert found.query_ids is None and found.database_ids is None


def test_rows_become_ids():
    asked = []

    def ids_at(rows):
        asked.append(rows.tolist())
        return [f"i{row}" for row in rows]

    lists = read_neighbours(_tensor("two")).to_lists(QUERIES, ids_at, 5)
    assert asked == [[0, 1, 2, 3, 4]] and lists.query_ids == QUERIES
    for number in range(2):
        entries, scores = lists.content(number)
        assert [lists.database_ids[e] for e in entries] == [f"i{row}" for row in ROWS[number]]
        assert scores.tolist() == SIMILARITIES[number].tolist()
    with pytest.raises(UserError, match="row 4 of a gallery of 4; they belong to other files"):
        read_neighbours(_tensor("two")).to_lists(QUERIES, ids_at, 4)
    with pytest.raises(UserError, match="2 lists of neighbours for 1 queries"):
        read_neighbours(_tensor("two")).to_lists(QUERIES[:1], ids_at, 5)


def test_float32_is_refused_for_galleries_whose_rows_it_cannot_tell_apart():
    found = read_neighbours(_tensor("two"))
    found.to_lists(QUERIES, lambda rows: [str(row) for row in rows], 16_777_216)
    with pytest.raises(UserError, match="above 16,777,216 apart, and the gallery has 16,777,217"):
        found.to_lists(QUERIES, lambda rows: [], 16_777_217)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("large", "row 16,777,216 in float32, which cannot tell rows above 16,777,216 apart"),
        ("fraction", "1 of its rows are negative or not whole, first 0.5"),
        ("whole", r"a tensor int64\[2, 3\]; expected an npz or HDF5"),
        ("dictionary", "a pickle of a dict; expected a tensor"),
    ],
)
def test_other_tensors_are_refused(name, message):
    with pytest.raises(UserError, match=rf"nn_{name}\.pkl: {message}"):
        read_neighbours(_tensor(name))


class _Hostile:
    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call


def test_nothing_that_a_pickle_names_is_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = epath.Path("nn.pkl")
    for value, message in (
        (
            _Hostile(pathlib.Path.touch, (pathlib.Path("ran"),)),
            "refused to read this pickle, .* the name",
        ),
        ([SIMILARITIES], "refused to read this pickle, it holds the name 'numpy"),
        ("text", "a pickle of a str; expected a tensor"),
    ):
        path.write_bytes(pickle.dumps(value))
        with pytest.raises(UserError, match=message):
            read_neighbours(path)
    assert not pathlib.Path("ran").exists()


def test_bytes_of_another_storage_are_refused(tmp_path):
    """Its name comes twice: where the tensor is described and where the bytes are."""
    data, path = _tensor("two").read_bytes(), epath.Path(tmp_path / "nn.pkl")
    [name] = set(re.findall(rb"X.\0\0\0(\d{9,})q", data))
    before, middle, after = data.split(name)
    for parts in ((before, name[:-1] + b"x", middle, name, after),):
        path.write_bytes(b"".join(parts))
        with pytest.raises(UserError, match="bytes of something other than a storage"):
            read_neighbours(path)


def test_every_cut_and_many_flipped_bytes_are_errors_or_other_numbers(tmp_path):
    """No cut file is read, and no damage is anything but a UserError."""
    data, path = _tensor("two").read_bytes(), epath.Path(tmp_path / "nn.pkl")
    for length in range(0, len(data), 3):
        path.write_bytes(data[:length])
        with pytest.raises(UserError):
            read_neighbours(path)
    for place in range(len(data)):
        changed = bytearray(data)
        changed[place] ^= 1 << place % 8
        path.write_bytes(changed)
        try:
            found = read_neighbours(path)
        except UserError:
            continue
        assert found.index.shape == found.similarity.shape


def _ranking() -> Ranking:
    indices = np.array([[70, 2, 9], [2, 5, 70]], np.int32)
    return Ranking(QUERIES, indices, SIMILARITIES)


@pytest.mark.parametrize("name", ["nn.npz", "nn.hdf5", "nn.h5"])
def test_what_is_written_is_read(tmp_path, name):
    path, ranking = epath.Path(tmp_path / name), _ranking()
    write_neighbours(path, ranking, lambda rows: [f"ï{row}" for row in rows])
    found = read_neighbours(path)
    assert found.query_ids == QUERIES and found.database_ids == ("ï2", "ï5", "ï9", "ï70")
    names = np.array(found.database_ids)[found.index]
    assert names.tolist() == [[f"ï{row}" for row in rows] for rows in ranking.indices]
    np.testing.assert_array_equal(found.similarity, ranking.scores)
    assert found.index.dtype == np.int64 and found.similarity.dtype == np.float32
    if name != "nn.npz":
        with h5py.File(path) as file:
            assert file["index"].dtype == np.int64 and file["similarity"].dtype == np.float32


def test_large_rows_of_integers_are_read(tmp_path):
    rows = ROWS + 99_999_990
    np.savez(tmp_path / "nn.npz", index=rows, similarity=SIMILARITIES)
    lists = read_neighbours(epath.Path(tmp_path / "nn.npz")).to_lists(
        QUERIES, lambda found: [str(row) for row in found], 10**8
    )
    assert lists.database_ids[-1] == "99999994"


BAD = {
    "no index": ({"index": None}, r"no index; expected an npz or HDF5"),
    "float index": ({"index": ROWS.astype(np.float32)}, r"index is float32\[2, 3\]; expected"),
    "negative": ({"index": ROWS - 1}, "index holds -1, which is no row"),
    "shape": (
        {"similarity": SIMILARITIES[:1]},
        r"similarity is float32\[1, 3\] and index \[2, 3\]",
    ),
    "integers": ({"similarity": ROWS}, r"similarity is int64\[2, 3\]"),
    "queries": ({"query_ids": ["a"]}, "1 query_ids for 2 lists"),
    "numbers as ids": ({"database_ids": [1, 2]}, r"database_ids is int64\[2\]; expected text"),
}


@pytest.mark.parametrize("kind", ["npz", "hdf5"])
@pytest.mark.parametrize("case", BAD)
def test_other_arrays_are_refused(tmp_path, case, kind):
    changes, message = BAD[case]
    arrays = {"index": ROWS, "similarity": SIMILARITIES, **changes}
    arrays = {name: value for name, value in arrays.items() if value is not None}
    path = tmp_path / f"nn.{kind}"
    if kind == "npz":
        np.savez(path, **arrays)
    else:
        with h5py.File(path, "w") as file:
            for name, value in arrays.items():
                file[name] = value
    with pytest.raises(UserError, match=re.escape(str(path)) + ": " + message):
        read_neighbours(epath.Path(path))


def test_files_that_are_none(tmp_path):
    path = epath.Path(tmp_path / "nn.npz")
    with pytest.raises(UserError, match="no such file"):
        read_neighbours(path)
    path.write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(UserError, match="not an npz that can be read"):
        read_neighbours(path)
    path.write_bytes(b"")
    with pytest.raises(UserError, match="not a whole pickle"):
        read_neighbours(path)
