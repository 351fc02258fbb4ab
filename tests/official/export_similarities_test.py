"""Similarity files: what the official evaluator gets out of them."""

import json
import pickle
import pickletools

import numpy as np
import pytest
from etils import epath

from ilias_jax.errors import UserError
from ilias_jax.official.export import check_ranking_output, write_ranking
from ilias_jax.official.similarities import read_similarities
from ilias_jax.search.ranking import Ranking

IDS = [f"{row}.tar/é" if row % 2 else f'mug_{row:03d}/pos/"P".jpg' for row in range(50)]


def _ids_at(rows):
    assert (np.diff(rows) > 0).all()
    return [IDS[row] for row in rows]


def _ranking(num_queries=4, k=30):
    """Scores of many digits and sizes, with ties, and a subnormal."""
    rng = np.random.default_rng(0)
    rows = np.stack([rng.permutation(40)[:k] for _ in range(num_queries)]).astype(np.int32)
    scores = np.sort(rng.normal(size=(num_queries, k)).astype(np.float32))[:, ::-1].copy()
    scores[:, 3:6] = scores[:, 3:4]
    scores[0, -1] = -np.float32(3e38)
    scores[1, 10:] = np.float32(1e-45)
    scores[1, :10] = np.float32(0.1)
    return Ranking(tuple(f"mug_{q:03d}/query/Q_ü.jpg" for q in range(num_queries)), rows, scores)


def test_json_reads_back_equal_with_ties_in_their_order(tmp_path):
    ranking, path = _ranking(), epath.Path(tmp_path) / "s.json"
    write_ranking(path, ranking, _ids_at)
    found = json.loads(path.read_bytes().decode("ascii"))
    assert tuple(found) == ranking.query_ids
    for scores, row, (query, results) in zip(
        ranking.scores, ranking.indices, found.items(), strict=True
    ):
        assert list(results) == [IDS[index] for index in row], query
        # Equal as float64 and not after rounding alone: sums and sorts see the same numbers.
        np.testing.assert_array_equal(list(results.values()), scores.astype(np.float64))


def test_json_has_a_line_for_each_query(tmp_path):
    path = epath.Path(tmp_path) / "s.json"
    write_ranking(path, _ranking(), _ids_at)
    lines = path.read_text().splitlines()
    assert len(lines) == 1 + 4 + 1
    empty = Ranking((), np.zeros((0, 3), np.int32), np.zeros((0, 3), np.float32))
    write_ranking(path, empty, _ids_at)
    assert json.loads(path.read_text()) == {}


def test_pickle_has_the_four_entries(tmp_path):
    ranking, path = _ranking(), epath.Path(tmp_path) / "s.pkl"
    write_ranking(path, ranking, _ids_at)
    found = pickle.loads(path.read_bytes())
    assert set(found) == {"query_ids", "db_ids", "sims", "ranks"}
    assert found["query_ids"] == list(ranking.query_ids)
    assert found["db_ids"] == [IDS[row] for row in np.unique(ranking.indices)]
    np.testing.assert_array_equal(found["sims"], ranking.scores)
    assert found["sims"].dtype == np.float32 and found["ranks"].dtype == np.int64
    names = np.asarray(found["db_ids"])[found["ranks"]]
    np.testing.assert_array_equal(names, np.array(IDS)[ranking.indices])
    # The evaluator's own steps work on copies, but a user may sort in place.
    assert found["sims"].flags.writeable and found["ranks"].flags.owndata


def test_the_pickle_names_public_classes_alone(tmp_path):
    path = epath.Path(tmp_path) / "s.pkl"
    write_ranking(path, _ranking(), _ids_at)
    operations = list(pickletools.genops(path.read_bytes()))
    assert operations[0][1] == 4  # Python 3.4 and later read protocol 4
    words = {argument for _, argument, _ in operations if isinstance(argument, str)}
    assert {word for word in words if word.startswith("numpy")} == {"numpy"}
    assert {"ndarray", "dtype"} <= words and "_reconstruct" not in words


@pytest.mark.parametrize("name", ["s.json", "s.pkl"])
def test_the_same_ranking_gives_the_same_bytes(tmp_path, name):
    paths = [epath.Path(tmp_path) / folder / name for folder in "ab"]
    for path in paths:
        write_ranking(path, _ranking(), _ids_at)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert [each.name for each in paths[0].parent.iterdir()] == [name]


def test_two_rows_of_one_id_would_lose_one(tmp_path):
    with pytest.raises(ValueError, match="two database rows of query 'mug_000/.*' have one id"):
        write_ranking(
            epath.Path(tmp_path) / "s.json", _ranking(), lambda rows: ["same"] * len(rows)
        )
    assert not list(tmp_path.iterdir())


def test_output_is_checked_before_the_search(tmp_path):
    with pytest.raises(UserError, match=r"s\.txt: the official evaluator reads .* \.json or \.pkl"):
        check_ranking_output(epath.Path(tmp_path) / "s.txt")
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(UserError, match=r"folder\.json is a folder; name a file"):
        check_ranking_output(epath.Path(tmp_path) / "folder.json")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file cannot be written .*; name another with --output"):
        check_ranking_output(epath.Path(tmp_path) / "file" / "s.json")
    check_ranking_output(epath.Path(tmp_path) / "new" / "s.json")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("name", ["s.json", "s.pkl"])
def test_what_is_written_is_read_again(tmp_path, name):
    ranking, path = _ranking(), epath.Path(tmp_path) / name
    write_ranking(path, ranking, _ids_at)
    found = read_similarities([path])
    assert found.query_ids == ranking.query_ids
    names = [found.database_ids[entry] for entry in found.entries]
    assert names == [IDS[row] for row in ranking.indices.ravel()]
    np.testing.assert_array_equal(found.scores, ranking.scores.ravel())
