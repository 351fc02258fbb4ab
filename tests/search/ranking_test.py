"""What a ranking refuses, and its file."""

import pathlib
from typing import Any

import numpy as np
import pytest
from etils import epath

from ilias_jax.errors import UserError
from ilias_jax.search.ranking import Ranking, read_provenance

IDS = ("a/query/Q0.jpg", "é/query/T0.txt")


def arrays() -> tuple[np.ndarray, np.ndarray]:
    """Two valid rows of three entries; the second has a tie."""
    indices = np.array([[4, 0, 2], [1, 3, 0]], np.int32)
    return indices, np.array([[0.9, 0.5, -0.1], [0.7, 0.7, 0.2]], np.float32)


def test_save_and_load_give_the_same(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "new" / "run.npz"
    Ranking(IDS, *arrays()).save(path)
    loaded = Ranking.load(str(path))
    assert loaded.query_ids == IDS and type(loaded.query_ids[0]) is str
    for found, expected in zip((loaded.indices, loaded.scores), arrays(), strict=True):
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)
    assert [file.name for file in path.parent.iterdir()] == ["run.npz"]
    loaded.save(path.parent / "again.npz")
    assert (path.parent / "again.npz").read_bytes() == path.read_bytes()


def test_the_note_on_the_database_is_kept(tmp_path: pathlib.Path) -> None:
    path = epath.Path(tmp_path) / "run.npz"
    Ranking(IDS, *arrays()).save(path, '{"é": 1}')
    assert str(np.load(path)["origin"]) == '{"é": 1}' and Ranking.load(path).query_ids == IDS
    indices, scores = arrays()
    np.savez(path, query_ids=np.array(IDS), indices=indices, scores=scores)  # an older version's
    assert Ranking.load(path).query_ids == IDS
    with pytest.raises(UserError, match="does not say which embeddings it ranks"):
        read_provenance(path)
    with pytest.raises(UserError, match=r"none\.npz: no such ranking file"):
        read_provenance(epath.Path(tmp_path) / "none.npz")


def test_save_replaces_only_when_the_new_file_is_whole(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run.npz"
    Ranking(IDS, *arrays()).save(path)
    renamed: list[tuple[int, int]] = []
    replace = type(epath.Path(path)).replace

    def watched(self: epath.Path, target: epath.Path) -> Any:
        # At the moment of the rename the old file is untouched and the new one complete.
        renamed.append((len(Ranking.load(target).query_ids), len(Ranking.load(self).query_ids)))
        return replace(self, target)

    monkeypatch.setattr(type(epath.Path(path)), "replace", watched)
    Ranking(IDS[:1], *(array[:1] for array in arrays())).save(path)
    assert renamed == [(2, 1)]
    assert len(Ranking.load(path).query_ids) == 1


@pytest.mark.parametrize(
    "content",
    [b"", b"not a zip", b"PK\x03\x04 cut off"],
)
def test_load_names_a_broken_file(tmp_path: pathlib.Path, content: bytes) -> None:
    path = tmp_path / "run.npz"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"run\.npz: not a ranking file"):
        Ranking.load(path)


def test_load_names_missing_files_and_arrays(tmp_path: pathlib.Path) -> None:
    with pytest.raises(UserError, match=r"none\.npz: no such ranking file; run the search"):
        Ranking.load(tmp_path / "none.npz")
    indices, scores = arrays()
    np.savez(tmp_path / "half.npz", query_ids=np.array(IDS), indices=indices)
    with pytest.raises(
        UserError, match=r"half\.npz: not a ranking file \(.*scores.*\); .*delete it"
    ):
        Ranking.load(tmp_path / "half.npz")
    np.savez(tmp_path / "wide.npz", query_ids=np.array(IDS), indices=indices, scores=scores[:, :2])
    with pytest.raises(UserError, match=r"wide\.npz: not a ranking file .*same shape"):
        Ranking.load(tmp_path / "wide.npz")
    np.savez(
        tmp_path / "pickled.npz", query_ids=np.array(IDS, object), indices=indices, scores=scores
    )
    with pytest.raises(UserError, match=r"pickled\.npz: not a ranking file"):
        Ranking.load(tmp_path / "pickled.npz")
    with open(tmp_path / "plain.npz", "wb") as file:
        np.save(file, indices)
    with pytest.raises(UserError, match=r"plain\.npz: not a ranking file"):
        Ranking.load(tmp_path / "plain.npz")


def changed(array: np.ndarray, place: tuple[int, int], value: float) -> np.ndarray:
    """A copy of the array with one other value."""
    array = array.copy()
    array[place] = value
    return array


INDICES, SCORES = arrays()


@pytest.mark.parametrize(
    ("indices", "scores", "message"),
    [
        (INDICES.astype(np.int64), SCORES, "indices are int64; expected int32"),
        (INDICES, SCORES.astype(np.float64), "scores are float64; expected float32"),
        (INDICES[:1], SCORES[:1], r"indices has shape \(1, 3\); .* Q = 2 query ids"),
        (INDICES[0], SCORES[0], r"indices has shape \(3,\)"),
        (INDICES, SCORES[:, :2], r"indices have shape \(2, 3\) and scores \(2, 2\)"),
        (changed(INDICES, (1, 0), -1), SCORES, "T0.txt' holds a negative index"),
        (changed(INDICES, (1, 2), 1), SCORES, "T0.txt' holds a database index more than once"),
        (INDICES, changed(SCORES, (1, 1), np.nan), "T0.txt' holds a score that is NaN"),
        (INDICES, changed(SCORES, (1, 2), -np.inf), "T0.txt' holds a score that is NaN"),
        (INDICES, changed(SCORES, (1, 2), 0.8), "T0.txt' has a score above the one before it"),
    ],
)
def test_broken_rules_are_named(indices: Any, scores: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Ranking(IDS, indices, scores)


def test_equal_lists_of_two_queries_are_no_repetition() -> None:
    indices = np.array([[4, 0], [4, 0]], np.int32)
    assert Ranking(IDS, indices, np.zeros((2, 2), np.float32)).indices.shape == (2, 2)
