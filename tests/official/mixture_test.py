"""Scores of re-ranked pairs, mixed into lists as the authors of ILIAS do, in float64."""

import json

import numpy as np
import pytest
from list_builder import lists_of

from ilias_jax import cli
from ilias_jax.errors import UserError
from ilias_jax.official.mixture import mix, pairs_of, to_ranking

NAMES = [f"i{n}" for n in range(8)]


def _lists(rng: np.random.Generator, ties: bool = False) -> dict[str, dict[str, float]]:
    """Three lists of five, in no order, with float64 scores."""
    found = {}
    for query in "abc":
        chosen, scores = rng.permutation(NAMES)[:5].tolist(), rng.random(5)
        scores = np.floor(scores * 3) / 2 if ties else scores
        found[query] = dict(zip(chosen, scores.tolist(), strict=True))
    return found


def _mix(lists, pairs, weight=0.5):
    parts = (lists_of(*((q, row.items()) for q, row in each.items())) for each in (lists, pairs))
    mixture = mix(*parts, weight, "pairs.json")
    names = list(dict.fromkeys(name for row in lists.values() for name in row))
    orders = [[names[index] for index in row] for row in mixture.ranking.indices]
    return mixture, dict(zip(mixture.ranking.query_ids, orders, strict=True))


def _sorted(row: dict[str, float]) -> list[str]:
    return sorted(row, key=lambda name: -row[name])


def _expected(lists, pairs, weight):
    """By their rule, a pair at a time, and the rest of the list."""
    orders = {}
    for query, row in lists.items():
        names = _sorted(row)
        first = [name for name in names if name in pairs[query]]
        mixed = {n: weight * row[n] + (1 - weight) * pairs[query][n] for n in first}
        orders[query] = [*_sorted(mixed), *(name for name in names if name not in mixed)]
    return orders


@pytest.mark.parametrize("weight", [0.0, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("ties", [False, True])
def test_is_their_rule(ties, weight):
    rng = np.random.default_rng(4)
    lists = _lists(rng, ties)
    pairs = {q: {n: float(rng.normal()) for n in _sorted(row)[:3]} for q, row in lists.items()}
    mixture, found = _mix(lists, pairs, weight)
    assert found == _expected(lists, pairs, weight)
    scores = mixture.ranking.scores
    assert (scores[:, 1:] < scores[:, :-1]).all()
    assert mixture.describe() == "9 pairs, 3 a list"
    if not ties:
        top = [
            max(weight * lists[q][n] + (1 - weight) * pairs[q][n] for n in pairs[q]) for q in lists
        ]
        np.testing.assert_allclose(scores[:, 0], top, rtol=1e-6)


def test_float64_decides_what_float32_cannot():
    lists = {"a": {"x": 0.5, "y": 0.5 + 2e-9, "z": 0.1}}
    assert _mix(lists, {"a": {"x": 0.25, "y": 0.25}})[1] == {"a": ["y", "x", "z"]}
    assert _mix(lists, {"a": {"x": 0.25 + 1e-9, "y": 0.25}})[1] == {"a": ["y", "x", "z"]}
    assert _mix(lists, {"a": {"x": 0.25 + 3e-9, "y": 0.25}})[1] == {"a": ["x", "y", "z"]}


def test_entries_without_a_pair_come_behind_and_are_counted():
    lists = {
        "a": {"x": 0.9, "y": 0.8, "z": 0.7, "w": 0.6},
        "b": {"x": 0.4, "y": 0.3, "z": 0.2, "v": 0.1},
    }
    mixture, found = _mix(lists, {"a": {"x": 0.1, "z": 0.9}, "b": {"x": 0.0, "y": 5.0, "z": 0.0}})
    assert found == {"a": ["z", "x", "y", "w"], "b": ["y", "x", "z", "v"]}
    assert mixture.describe() == (
        "5 pairs, 2 to 3 a list; 1 entries before the last pair had none and come behind"
    )


LISTS = {"a": {"x": 0.9, "y": 0.8}, "b": {"x": 0.4, "y": 0.3}}
BAD = {
    "a pair of no list": (
        {"a": {"x": 1, "z": 1, "w": 1}, "b": {"y": 1}},
        "pairs.json: 2 of 4 pairs are in no list of similarities, first 'z' of 'a'",
    ),
    "a pair of another list": (
        {"a": {"x": 1}, "b": {"y": 1, "v": 1}},
        "1 of 3 pairs are in no list of similarities, first 'v' of 'b'",
    ),
    "no pair": ({"a": {"x": 1}}, "1 queries have a list and no pair, first 'b'"),
    "an empty list of pairs": (
        {"a": {"x": 1}, "b": {}},
        "1 queries have a list and no pair, first 'b'",
    ),
    "no list": (
        {"a": {"x": 1}, "b": {"x": 1}, "c": {"x": 1}},
        "1 queries have pairs and no list, first 'c'; both files must be of the same queries",
    ),
    "nothing": ({}, "pairs.json: there is no list"),
    "nan": (
        {"a": {"x": 1}, "b": {"x": float("nan")}},
        "pairs.json: 1 scores are NaN, infinite or too large for float32, first nan of 'x' of 'b'",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_only_in_one_file_is_named(case):
    pairs, message = BAD[case]
    with pytest.raises(UserError, match=message):
        _mix(LISTS, pairs)


def test_lists_that_cannot_be_re_ranked_are_named():
    for queries, message in (
        (
            [("a", {"x": 1.0}.items()), ("b", {"x": 1.0, "y": 0.5}.items())],
            "lists have 1 to 2 entries",
        ),
        ([("a", {}.items())], "lists have 0 to 0 entries"),
        ([], "similarities: there is no list"),
        ([("a", {"x": 1.0}.items())] * 2, "1 queries have several lists, first 'a'"),
        (
            [("a", [("x", 1.0), ("y", 0.9), ("x", 0.5)])],
            "1 entries come twice in a list, first 'x' of 'a'",
        ),
        (
            [("a", {"x": float("inf")}.items())],
            "1 scores are NaN, infinite .* first inf of 'x' of 'a'",
        ),
        ([("a", {"x": -1e39, "y": 1.0}.items())], r"too large for float32, first -1e\+39 of 'x'"),
    ):
        with pytest.raises(UserError, match=message):
            to_ranking(lists_of(*queries))


def test_pairs_are_written_best_first():
    ranking = to_ranking(lists_of(("a", [("x", 0.9), ("y", 0.8), ("z", 0.7)])))
    found = pairs_of(ranking, np.array([[0.5, 2.0]], np.float32))
    assert found.indices.tolist() == [[1, 0]] and found.scores.tolist() == [[2.0, 0.5]]


def test_the_command_says_what_it_did(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s.json").write_text(json.dumps(LISTS))
    (tmp_path / "pairs.json").write_text(json.dumps({"a": {"x": 0.0, "y": 1.0}, "b": {"x": 1.0}}))
    words = ["rerank", "--similarities", "s.json", "--mix", "pairs.json", "--output", "out.json"]
    cli.main([*words, "--similarity_weight", "0.25"])
    out = capsys.readouterr().out
    assert "out.json: 2 lists of 2; mixed with" in out
    assert "similarity_weight 0.25: 3 pairs, 1 to 2 a list" in out
    found = json.loads((tmp_path / "out.json").read_text())
    assert [*found["a"]] == ["y", "x"] and found["a"]["y"] == pytest.approx(0.95)
    for more in (["--scores", "x.json"], ["--queries", "s.json"], ["--temperature", "0.5"]):
        with pytest.raises(SystemExit):
            cli.main([*words, *more])
        assert f"--mix compares no images; leave {more[0]}" in capsys.readouterr().err
