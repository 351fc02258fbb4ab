"""Similarities as pickle: what is read, and what a user is told about wrong ones."""

import pickle
from typing import Any

import numpy as np
import pytest

from ilias_jax.errors import UserError
from ilias_jax.official.similarities import parse_pickle

VALID: dict[str, Any] = {
    "query_ids": np.array(["b/q", "a/q"], object),
    "db_ids": np.array(["x", "y", "z"]),
    "sims": np.array([[0.9, 0.5], [0.25, 0.75]], np.float32),
    "ranks": np.array([[2, 0], [1, 0]]),
}


def parse(**changes: Any) -> Any:
    return parse_pickle(pickle.dumps({**VALID, **changes}), "f.pkl")


def deep_list() -> list[Any]:
    value: list[Any] = []
    for _ in range(400):
        value = [value]
    return value


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"query_ids": ["b/q", "a/q"], "db_ids": ("x", "y", "z")},
        {"query_ids": np.array(["b/q", "a/q"]), "db_ids": np.array([b"x", b"y", b"z"], object)},
        {"sims": list(VALID["sims"]), "ranks": [[2, 0], (1, 0)]},
        {"sims": np.asfortranarray(VALID["sims"]), "ranks": VALID["ranks"].astype(np.uint8)},
    ],
)
def test_reads_the_forms_that_users_write_in_the_order_of_the_file(changes: Any) -> None:
    lists = parse(**changes)
    assert lists.query_ids == ("b/q", "a/q") and lists.database_ids == ("x", "y", "z")
    assert lists.entries.tolist() == [2, 0, 1, 0] and lists.offsets.tolist() == [0, 2, 4]
    assert lists.scores.tolist() == np.float32([0.9, 0.5, 0.25, 0.75]).tolist()


def test_lists_may_differ_in_length_and_be_empty() -> None:
    lists = parse(sims=[np.array([1.5]), np.zeros(0)], ranks=[np.array([2]), []])
    assert lists.lengths.tolist() == [1, 0] and lists.scores.tolist() == [1.5]


@pytest.mark.parametrize("dtype", ["f2", "f8", "i4", ">f4"])
def test_scores_of_any_real_dtype_are_kept_exactly(dtype: str) -> None:
    sims = np.array([[3, 1], [2, 1]], dtype) / np.array(3, dtype)
    lists = parse(sims=sims.astype(dtype))
    assert lists.scores.tolist() == sims.astype(dtype).astype(float).ravel().tolist()


def test_one_id_twice_in_db_ids_is_one_image() -> None:
    assert parse(db_ids=["x", "y", "x"]).entries.tolist() == [0, 0, 1, 0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"ranks": np.array([[3, 0], [1, 7]])},
            r"2 outside \[0, 3\), the first is 3: .*there are 3",
        ),
        ({"ranks": np.array([[0, -1], [1, 0]])}, r"ranks: 1 outside \[0, 3\), the first is -1"),
        ({"ranks": np.array([[0.0, 1.0], [1, 0]])}, r"ranks of 'b/q' is an array float64\[2\]"),
        ({"ranks": np.array([[0], [1]])}, r"f.pkl: 'b/q' has 2 sims and 1 ranks; expected"),
        ({"ranks": np.array([0, 1])}, r"ranks of 'b/q' is int64 "),
        ({"ranks": np.zeros((2, 1, 2), int)}, r"ranks of 'b/q' is an array int64\[1, 2\]"),
        ({"sims": np.ones((1, 2))}, r"f.pkl: sims: 1 lists for 2 query_ids; expected"),
        ({"sims": np.array([["a", "b"]] * 2)}, r"sims of 'b/q' is an array <U1\[2\]"),
        ({"sims": np.array(1.0)}, r"sims is an array float64\[\]"),
        ({"sims": [[1.0, "x"], [1.0, 2.0]]}, r"sims of 'b/q' holds more than numbers"),
        ({"sims": [[True, False]] * 2}, r"sims of 'b/q' holds more than numbers"),
        ({"sims": "ab"}, r"sims is str 'ab'"),
        ({"query_ids": [1, 2]}, r"f.pkl: query_ids holds int 1; expected"),
        ({"query_ids": np.array([["a", "b"]])}, r"query_ids is an array <U1\[1, 2\]"),
        ({"query_ids": [10**5000, "a"]}, r"query_ids holds int of too many digits"),
        ({"query_ids": [deep_list(), "a"]}, r"query_ids holds list \[\[\["),
        (
            {"sims": [[1.0, 10**400], [1.0, 2.0]]},
            r"sims of 'b/q' is an array object\[2\]",
        ),
        ({"db_ids": {"x": 0}}, r"db_ids is dict \{'x': 0\}; expected"),
        ({"db_ids": [b"\xff", "y", "z"]}, r"f.pkl: db_ids holds what is no text \('utf-8' codec"),
        ({"more": 1}, r"a pickle of the keys \['db_ids', 'more', 'query_ids', 'ranks', 'sims'\]"),
    ],
)
def test_wrong_shapes_and_types_are_named(changes: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse(**changes)


def test_another_value_is_no_similarity_file() -> None:
    with pytest.raises(
        UserError, match=r"f.pkl: a pickle of list \[1, 2\]; expected a dict of query_ids"
    ):
        parse_pickle(pickle.dumps([1, 2]), "f.pkl")


def test_one_list_for_a_thousand_queries_is_refused_before_it_fills_the_memory() -> None:
    row = np.zeros(10_000)
    with pytest.raises(UserError, match="sims: more entries than the file has bytes"):
        parse(query_ids=[f"q{n}" for n in range(1000)], sims=[row] * 1000)
