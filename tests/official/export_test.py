"""A run's official files, and the way back through the search."""

import json
import pickle
import shutil

import finished_run
import h5py
import numpy as np
import pytest
from embedding_reader import read
from etils import epath

from ilias_jax import cli
from ilias_jax.embeddings.file import Embeddings, write
from ilias_jax.embeddings.files import EmbeddingFiles
from ilias_jax.errors import UserError
from ilias_jax.official.export import export_features, export_rankings
from ilias_jax.official.features import open_features
from ilias_jax.search.ranking import Ranking, trace

FEATURES = [
    "features_distractors_00000.hdf5",
    "features_distractors_00001.hdf5",
    "features_distractors_00002.hdf5",
    "features_image_queries.hdf5",
    "features_positives.hdf5",
    "features_text_queries.hdf5",
]


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return finished_run.finish(tmp_path_factory.mktemp("export"))


@pytest.fixture(scope="module")
def exported(workdir, tmp_path_factory):
    """The folder that the command fills when it is asked for nothing in particular."""
    output = tmp_path_factory.mktemp("exported") / "new"
    cli.main(["export", "--workdir", str(workdir), "--output", str(output)])
    return output


def _database_ids(workdir):
    folder = next((workdir / "embeddings").iterdir())
    names = [*sorted(folder.glob("positive-*")), *sorted(folder.glob("distractor-*"))]
    return EmbeddingFiles([epath.Path(path) for path in names]).ids()


def _expected(workdir, section):
    """The similarity file by the definition of a ranking."""
    ids = _database_ids(workdir)
    ranking = Ranking.load(workdir / "rankings" / f"{section}.npz")
    return {
        query: {ids[row]: float(score) for row, score in zip(rows, scores, strict=True)}
        for query, rows, scores in zip(
            ranking.query_ids, ranking.indices, ranking.scores, strict=True
        )
    }


def _items(similarities):
    """With the order of the results."""
    return {query: list(results.items()) for query, results in similarities.items()}


@pytest.mark.parametrize("section", ["image_to_image", "text_to_image"])
def test_rankings_name_the_right_ids(workdir, exported, section):
    found = json.loads((exported / f"similarities_{section}.json").read_text())
    assert _items(found) == _items(_expected(workdir, section))
    assert len(found) == 5 and all(len(results) == 20 for results in found.values())


def test_json_and_pickle_say_the_same(workdir, exported, tmp_path):
    cli.main(
        ["export", "--workdir", str(workdir), "--output", str(tmp_path), "--rankings"]
        + ["--format", "pickle"]
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "similarities_image_to_image.pkl",
        "similarities_text_to_image.pkl",
    ]
    for section in ("image_to_image", "text_to_image"):
        found = pickle.loads((tmp_path / f"similarities_{section}.pkl").read_bytes())
        lists = {
            query: [
                (found["db_ids"][rank], score) for rank, score in zip(ranks, scores, strict=True)
            ]
            for query, ranks, scores in zip(
                found["query_ids"], found["ranks"], found["sims"].tolist(), strict=True
            )
        }
        assert lists == _items(json.loads((exported / f"similarities_{section}.json").read_text()))


def test_features_keep_rows_ids_and_order(workdir, exported):
    assert sorted(path.name for path in exported.glob("*.hdf5")) == FEATURES
    ids = open_features(epath.Path(exported / "features_positives.hdf5")).ids()
    for name in FEATURES[:3]:
        ids += open_features(epath.Path(exported / name)).ids()
    assert ids == _database_ids(workdir)
    assert ids[:2] == ["mug_003/pos/P_1.jpg", "mug_003/pos/P_0.jpg"]  # not sorted
    with h5py.File(exported / "features_positives.hdf5") as file:
        assert file["index"][2] == b"#U00e9t#U00e9_001/pos/P_1.jpg"
        assert file["features"].dtype == np.float16


@pytest.mark.parametrize("kind", ["image", "text"])
@pytest.mark.parametrize("distractors", ["features_distractors_{idx}.hdf5", "features_dis*.hdf5"])
def test_searching_exported_features_gives_the_run_s_ranking(
    workdir, exported, tmp_path, capsys, kind, distractors
):
    output = tmp_path / "found.json"
    cli.main(
        ["search", "--queries", f"{exported}/features_{kind}_queries.hdf5"]
        + ["--positives", f"{exported}/features_positives.hdf5"]
        + ["--distractors", f"{exported}/{distractors}", "--ids", str(workdir.parent / "data")]
        + ["--output", str(output), "--k", "20", "--block_rows", "4"]
    )
    found = json.loads(output.read_text())
    assert _items(found) == _items(_expected(workdir, f"{kind}_to_image"))
    assert "5 queries, lists of 20; 10 positives and 49 distractors" in capsys.readouterr().out


def test_embedding_files_can_be_searched_in_place_of_features(workdir, tmp_path):
    folder, output = next((workdir / "embeddings").iterdir()), tmp_path / "found.json"
    words = ["search", "--queries", f"{folder}/image_query-*", "--k", "20", "--block_rows", "4"]
    words += ["--positives", f"{folder}/positive-*", "--distractors", f"{folder}/distractor-*"]
    cli.main([*words, "--output", str(output)])
    assert _items(json.loads(output.read_text())) == _items(_expected(workdir, "image_to_image"))


def test_export_twice_and_beside_another_export(workdir, exported, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(exported, copy)
    before = {path.name: path.read_bytes() for path in copy.iterdir()}
    cli.main(["export", "--workdir", str(workdir), "--output", str(copy)])
    assert {path.name: path.read_bytes() for path in copy.iterdir()} == before
    (copy / "features_distractors_00003.hdf5").touch()
    with pytest.raises(
        UserError, match=r"holds features_distractors_00003\.hdf5, which this export"
    ):
        export_features(epath.Path(workdir), epath.Path(copy))


def _export(workdir, output):
    return export_rankings(epath.Path(workdir), epath.Path(output), "json")


@pytest.fixture
def copied(workdir, tmp_path):
    """A copy of the run that a test may spoil."""
    shutil.copytree(workdir, tmp_path / "run")
    return tmp_path / "run"


def test_a_run_without_rankings(tmp_path):
    with pytest.raises(UserError, match=r"run holds no rankings/\*\.npz; run the benchmark"):
        _export(tmp_path / "run", tmp_path / "out")


def test_embeddings_that_are_gone(copied, tmp_path):
    next((copied / "embeddings").glob("*/distractor-00001-*")).unlink()
    with pytest.raises(UserError, match=r"1 of 4 embedding files .* are gone, first .*-00001-of-"):
        _export(copied, tmp_path / "out")
    with pytest.raises(UserError, match="1 of 1 embedding files"):
        export_features(epath.Path(copied), epath.Path(tmp_path / "out"))
    assert not (tmp_path / "out").exists()  # found before anything is written


def test_a_ranking_of_other_queries(copied, tmp_path):
    path = copied / "rankings" / "image_to_image.npz"
    ranking, origin = Ranking.load(path), str(np.load(path)["origin"])
    Ranking(ranking.query_ids[::-1], ranking.indices, ranking.scores).save(path, origin)
    with pytest.raises(UserError, match="the ranking's queries or indices are not those"):
        _export(copied, tmp_path / "out")


def test_rankings_of_two_databases(copied, workdir, tmp_path):
    shutil.rmtree(copied / "rankings")
    other = finished_run.finish(workdir.parent, "other", seed=6)
    shutil.copytree(other / "rankings", copied / "rankings")
    shutil.copy(workdir / "rankings" / "text_to_image.npz", copied / "rankings")
    with pytest.raises(UserError, match="rankings of .*run are of different databases; remove"):
        _export(copied, tmp_path / "out")


def test_a_shard_without_a_readable_image(copied, tmp_path):
    folder, rankings = next((copied / "embeddings").iterdir()), copied / "rankings"
    queries, positives, distractors = (
        EmbeddingFiles([epath.Path(path) for path in sorted(folder.glob(f"{role}-*"))])
        for role in ("image_query", "positive", "distractor")
    )
    first = distractors.paths[0]
    nothing = np.zeros((0, 0), np.float16), np.zeros(0, np.int64)
    write(first, Embeddings((), *nothing, read(first).fingerprint))
    rows = np.tile(np.arange(58, dtype=np.int32), (5, 1))
    ranking = Ranking(tuple(queries.ids()), rows, np.zeros((5, 58), np.float32))
    ranking.save(rankings / "image_to_image.npz", trace(queries, positives, distractors).to_text())
    (rankings / "text_to_image.npz").unlink()
    output = tmp_path / "out"
    cli.main(["export", "--workdir", str(copied), "--output", str(output)])
    assert open_features(epath.Path(output / FEATURES[0])).shape == (0, 12)
    assert not (output / "features_text_queries.hdf5").exists()
    found = json.loads((output / "similarities_image_to_image.json").read_text())
    assert list(found["mug_003/query/Q_0.jpg"]) == positives.ids() + distractors.ids()
    cli.main(
        [
            "search",
            "--queries",
            f"{output}/features_image_queries.hdf5",
            "--output",
            str(output / "s.json"),
        ]
        + ["--positives", f"{output}/features_positives.hdf5"]
        + ["--distractors", f"{output}/features_distractors_{{idx}}.hdf5"]
    )
    assert {len(results) for results in json.loads((output / "s.json").read_text()).values()} == {
        58
    }


def test_a_folder_that_cannot_be_written(workdir, tmp_path, capsys):
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit):
        cli.main(["export", "--workdir", str(workdir), "--output", str(tmp_path / "file" / "x")])
    assert "cannot be written" in capsys.readouterr().err
