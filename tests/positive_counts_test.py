"""What counts of positives refuse, and their file."""

import dataclasses

import numpy as np
import pytest

from ilias_jax.errors import UserError
from ilias_jax.positive_counts import PositiveCounts, load_counts_origin

IDS = ("a/query/Q0.jpg", "é/query/T0.txt")
ARRAYS = {
    "query": np.array([0, 0, 0, 1], np.int32),
    "positive": np.array([0, 1, 4, 2], np.int32),
    "score": np.array([0.5, 0.7, 0.7, -0.0], np.float32),
    "at_or_above": np.array([6, 3, 3, 1], np.int32),
    "rank": np.array([5, 2, 3, 1], np.int32),
}


def counts(**arrays) -> PositiveCounts:
    return PositiveCounts(IDS, 5, 9, **{**ARRAYS, **arrays})


def test_save_and_load_give_the_same(tmp_path):
    path = tmp_path / "new" / "counts.npz"
    counts().save(path, '{"é": 1}')
    loaded = PositiveCounts.load(str(path))
    assert (loaded.query_ids, loaded.k, loaded.num_database) == (IDS, 5, 9)
    assert type(loaded.query_ids[0]) is str and type(loaded.k) is int
    for name, expected in ARRAYS.items():
        found = getattr(loaded, name)
        assert found.dtype == expected.dtype and found.tobytes() == expected.tobytes()
    assert load_counts_origin(path) == '{"é": 1}'
    assert [file.name for file in path.parent.iterdir()] == ["counts.npz"]
    counts().save(path)
    assert load_counts_origin(path) == ""


def test_load_names_a_file_that_is_missing_or_another(tmp_path):
    with pytest.raises(UserError, match=r"none\.npz: no such counts file; run the search first"):
        PositiveCounts.load(tmp_path / "none.npz")
    path = tmp_path / "counts.npz"
    path.write_bytes(b"not a zip")
    for load in (PositiveCounts.load, load_counts_origin):
        with pytest.raises(UserError, match=r"counts\.npz: not a counts file"):
            load(path)
    np.savez(path, query_ids=np.array(IDS), k=5, num_database=9)
    with pytest.raises(UserError, match=r"at_or_above and rank: delete it and run the search"):
        PositiveCounts.load(path)
    counts().save(path)
    whole = dict(np.load(path))
    np.savez(path, **{**whole, "k": 2})
    with pytest.raises(UserError, match=r"not a counts file \(pair 0 of 4 counts further than"):
        PositiveCounts.load(path)


def changed(name: str, place: int, value: float) -> dict[str, np.ndarray]:
    array = ARRAYS[name].copy()
    array[place] = value
    return {name: array}


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"score": ARRAYS["score"].astype(np.float64)}, "score is float64.4.; expected float32"),
        ({"rank": ARRAYS["rank"][:3]}, r"rank is int32\[3\]; expected int32\[4\]"),
        (changed("query", 0, -1), "pair 0 of 4 has a negative query"),
        (changed("query", 3, 2), "pair 3 of 4 has a query >= Q = 2"),
        (changed("query", 1, 1), "is not in the order of its queries"),
        (changed("positive", 1, 4), "has positives that do not rise"),
        (changed("score", 2, np.nan), "pair 2 of 4 has a score that is NaN"),
        (changed("rank", 3, 0), "pair 3 of 4 has a rank below 1"),
        (changed("rank", 3, 2), "pair 3 of 4 has a rank beyond the end of its tie"),
        (changed("at_or_above", 0, 7), "pair 0 of 4 counts further than k . 1 = 6"),
        (changed("rank", 2, 2), "pair 2 of 4 has the rank of another positive"),
    ],
)
def test_broken_rules_are_named(arrays, message):
    with pytest.raises(ValueError, match=message):
        counts(**arrays)


def test_no_count_is_larger_than_the_database():
    with pytest.raises(ValueError, match="pair 0 of 4 counts more than N = 5"):
        dataclasses.replace(counts(), num_database=5)


def test_positives_beyond_k_share_their_rank():
    beyond = np.array([6, 6, 3, 1], np.int32)
    assert counts(rank=beyond, at_or_above=beyond).rank[0] == 6
