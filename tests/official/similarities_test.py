"""Which file is what, and several files as one result."""

import json
import pathlib
import pickle
from typing import Any

import numpy as np
import pytest

from ilias_jax.errors import UserError
from ilias_jax.official.similarities import read_similarities


def as_pickle(value: dict[str, dict[str, float]], protocol: int = 4) -> bytes:
    names = sorted({name for found in value.values() for name in found})
    ranks = [[names.index(name) for name in found] for found in value.values()]
    sims = [list(found.values()) for found in value.values()]
    keys: dict[str, Any] = {"query_ids": list(value), "db_ids": names, "sims": sims, "ranks": ranks}
    return pickle.dumps(keys, protocol)


@pytest.mark.parametrize("suffix", [".json", ".pkl", ".txt", ""])
@pytest.mark.parametrize("protocol", [None, *range(6)])
def test_the_content_tells_the_kind_whatever_the_name(
    suffix: str, protocol: int | None, tmp_path: pathlib.Path
) -> None:
    value = {"q": {"x": 0.5, "y": 0.25}}
    path = tmp_path / f"file{suffix}"
    path.write_bytes(json.dumps(value).encode() if protocol is None else as_pickle(value, protocol))
    lists = read_similarities([path])
    assert lists.query_ids == ("q",) and lists.scores.tolist() == [0.5, 0.25]


@pytest.mark.parametrize("protocol", range(6))
def test_lists_of_numpys_scalars_are_lists(protocol: int, tmp_path: pathlib.Path) -> None:
    """As `list(array)` makes them, and the official evaluator takes them."""
    value = {
        "query_ids": list(np.array(["q"])),
        "db_ids": list(np.array(["x", "y"])),
        "sims": [list(np.array([0.5, 0.25], np.float32))],
        "ranks": [list(np.array([1, 0]))],
    }
    (tmp_path / "s.pkl").write_bytes(pickle.dumps(value, protocol))
    lists = read_similarities([tmp_path / "s.pkl"])
    assert lists.query_ids == ("q",) and lists.scores.tolist() == [0.5, 0.25]
    assert [lists.database_ids[entry] for entry in lists.entries] == ["y", "x"]
    value["sims"] = [list(np.array([True, False]))]
    (tmp_path / "s.pkl").write_bytes(pickle.dumps(value, protocol))
    with pytest.raises(UserError, match="holds more than numbers"):
        read_similarities([tmp_path / "s.pkl"])


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("s.txt", b"q,x,0.5\n", r"s.txt: neither JSON nor a pickle \(it begins with b'q,x,0.5\\n'"),
        ("s.hdf5", b"\x89HDF\r\n\x1a\n", r"s.hdf5: neither JSON nor a pickle"),
        ("s", b"", r"s: neither JSON nor a pickle \(it begins with b''\)"),
        ("s.json", b"", r"s.json, line 1, column 1: broken JSON .*ends too early"),
        ("s.json", b"q,x", r"s.json, line 1, column 1: broken JSON"),
        ("s.pkl", b"", r"s.pkl: not a whole pickle"),
        (
            "s.pkl",
            b"\x1f\x8b\x08",
            r"s.pkl is a file packed with gzip; unpack it",
        ),
    ],
)
def test_a_file_that_is_neither(
    name: str, data: bytes, message: str, tmp_path: pathlib.Path
) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match=message):
        read_similarities([tmp_path / name])


def test_a_missing_file_is_named_before_the_others_are_read(tmp_path: pathlib.Path) -> None:
    (tmp_path / "a.json").write_text("broken")
    with pytest.raises(UserError, match="b.json: no such file; expected a similarity file"):
        read_similarities([tmp_path / "a.json", tmp_path / "b.json"])
    with pytest.raises(UserError, match="a.json: named twice"):
        read_similarities([tmp_path / "a.json", tmp_path / "a.json"])


def test_parts_are_joined_in_the_official_order(tmp_path: pathlib.Path) -> None:
    parts = [{"b": {"x": 1.0}, "d": {"y": 2.0}}, {"c": {"y": 3.0, "z": 4.0}, "a": {"x": 5.0}}]
    for number, part in enumerate(parts):
        (tmp_path / f"{number}.json").write_text(json.dumps(part))
        (tmp_path / f"{number}.pkl").write_bytes(as_pickle(part))

    def read(*names: str) -> tuple[tuple[str, ...], list[str], list[float]]:
        lists = read_similarities([tmp_path / name for name in names])
        names_of = [lists.database_ids[entry] for entry in lists.entries]
        return lists.query_ids, names_of, lists.scores.tolist()

    in_order = (("a", "b", "c", "d"), ["x", "x", "y", "z", "y"], [5.0, 1.0, 3.0, 4.0, 2.0])
    assert read("0.json", "1.json") == read("1.json", "0.json") == in_order
    assert read("0.json", "1.pkl") == in_order
    as_written = (("b", "d", "c", "a"), ["x", "y", "y", "z", "x"], [1.0, 2.0, 3.0, 4.0, 5.0])
    assert read("0.pkl", "1.pkl") == as_written


def test_a_query_in_two_parts_comes_twice(tmp_path: pathlib.Path) -> None:
    for name in "ab":
        (tmp_path / name).write_text(json.dumps({"q": {name: 1.0}}))
    lists = read_similarities([tmp_path / "a", tmp_path / "b"])
    assert lists.query_ids == ("q", "q") and lists.database_ids == ("a", "b")
    assert np.array_equal(lists.offsets, [0, 1, 2])
