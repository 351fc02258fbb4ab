"""Similarities as JSON: what is read, and what a user is told about broken files."""

import json
import pathlib

import numpy as np
import pytest

from ilias_jax.errors import UserError
from ilias_jax.official.similarities import parse_json


def content(data: bytes) -> list[tuple[str, list[tuple[str, float]]]]:
    """Queries with their entries."""
    lists = parse_json(data, "f.json")
    names = [lists.database_ids[entry] for entry in lists.entries]
    pairs = list(zip(names, lists.scores.tolist(), strict=True))
    ends = zip(lists.offsets[:-1], lists.offsets[1:], strict=True)
    return [(q, pairs[a:b]) for q, (a, b) in zip(lists.query_ids, ends, strict=True)]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("indent", [None, 4])
def test_reads_lists_in_the_order_of_the_query_ids(encoding: str, indent: int | None) -> None:
    value = {"b/q": {"x": 0.1, "é": 2, "y": -1e-3}, "a/q": {}, "c/q": {"y": 1.0}}
    data = json.dumps(value, indent=indent, ensure_ascii=False).encode(encoding)
    assert content(data) == [
        ("a/q", []),
        ("b/q", [("x", 0.1), ("é", 2.0), ("y", -1e-3)]),
        ("c/q", [("y", 1.0)]),
    ]


def test_scores_stay_float64_and_may_be_nan() -> None:
    lists = parse_json(b'{"q": {"a": 1.000000000001, "b": NaN, "c": -Infinity, "d": 1e999}}', "f")
    assert lists.scores.dtype == np.float64 and lists.scores[0] == 1.000000000001
    assert np.isnan(lists.scores[1]) and lists.scores[2:].tolist() == [-np.inf, np.inf]


@pytest.mark.parametrize("space", ["", " ", "\n\t"])
def test_repeated_keys_are_kept(space: str) -> None:
    """The parser of Python keeps the last; colons in an id must not hide a repeat either."""
    text = '{"q": {"a": 1, "b:c": 2, "a": 3}, "r": {"a": 4}, "q": {"d": 5}}'
    for id_with_colon in ("b:c", "bc", 'b\\":c'):
        found = content(text.replace('":', f'"{space}:').replace("b:c", id_with_colon).encode())
        assert [query for query, _ in found] == ["q", "q", "r"]
        assert [score for _, score in found[0][1]] == [1, 2, 3]
        assert [name for name, _ in found[0][1]][::2] == ["a", "a"]


def test_an_empty_object_has_no_lists() -> None:
    assert content(b" {} ") == []


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'{"q": {"a": 1,}}', r"f.json, line 1, column 1\d: broken JSON"),
        (b'{"q":\n {"a": 1 "b": 2}}', r"f.json, line 2, column 10: broken JSON \(Expecting ','"),
        (b'{"q": {"a": 0.5, "b"', r"line 1, column 21.*; the file ends too early; expected \{"),
        (b'{"q": {"a": 0.5, "b', r"column 18.*Unterminated string.*; the file ends too early"),
        (b'{"q": {}} {"r": {}}', r"line 1, column 11: broken JSON \(Extra data\)"),
        (b'{"q": {"\xff": 1}}', r"f.json: broken JSON \('utf-8' codec can't decode"),
        (b"[" * 100_000, r"f.json: JSON that is nested too deeply"),
        (b'{"q": {"a": ' + b"9" * 400 + b"}}", r"broken JSON \(int too large to convert to float"),
        (b'{"q": {"a": ' + b"9" * 9000 + b"}}", r"broken JSON \(Exceeds the limit"),
        (b'[["q", 1]]', r"f.json: JSON of list \[\['q', 1\]\]; expected \{"),
        (b'{"a": 1.0}', r"f.json: JSON of an object of numbers; expected \{"),
        (b'{"q": {"a": 1}, "r": [1, 2]}', r"f.json: 'r' has list \[1, 2\]; expected"),
        (b'{"q": {"a": 1}, "r": 2.5}', r"f.json: 'r' has float 2.5; expected"),
        (b'{"q": {"a": "0.5"}}', r"'q' has str '0.5' as the score of 'a' \(1 of its scores"),
        (b'{"q": {"a": 1, "b": true, "c": null}}', r"'q' has bool True as the score of 'b' \(2 of"),
        (b'{"q": {"a": {"b": 1}}}', r"'q' has an object of numbers as the score of 'a'"),
    ],
)
def test_broken_files_are_named_with_the_place(data: bytes, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_json(data, "f.json")


def test_reads_what_the_official_search_writes(tmp_path: pathlib.Path) -> None:
    """float32 scores through `json.dump(indent=4)` come back as the same float32 numbers."""
    scores = np.random.default_rng(0).random(50, np.float32)
    path = tmp_path / "s.json"
    names = [f"{n}.tar/{n}" for n in range(50)]
    value = {"q": {name: score.item() for name, score in zip(names, scores, strict=True)}}
    path.write_text(json.dumps(value, indent=4))
    lists = parse_json(path.read_bytes(), str(path))
    assert lists.scores.astype(np.float32).tobytes() == scores.tobytes()
    assert lists.database_ids == tuple(names)
