"""Search over feature files, against what the official toolkit finds in the same files."""

import json
import re
import sys
import types

import h5py
import jax
import numpy as np
import official_case
import pytest
from etils import epath

from ilias_jax import cli
from ilias_jax.config import ScannConfig
from ilias_jax.dataset.ground_truth import read_ground_truth
from ilias_jax.dataset.id_lists import read_id_list
from ilias_jax.embeddings import file
from ilias_jax.errors import UserError
from ilias_jax.mesh import make_mesh
from ilias_jax.metrics import evaluate
from ilias_jax.official import search
from ilias_jax.official.features import feature_paths
from ilias_jax.search.exact import ExactSearch
from ilias_jax.search.ranking import Ranking
from ilias_jax.search.scann import ScannSearch

OFFICIAL = json.loads(official_case.VALUES.read_text())


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    folder = tmp_path_factory.mktemp("official")
    official_case.write(folder)
    return folder


def _words(case, output, **flags):
    """The command line of a search over the case."""
    given = {
        "queries": f"{case}/features_image_queries.hdf5",
        "positives": f"{case}/features_positives.hdf5",
        "distractors": f"{case}/features_distractors_{{idx}}.hdf5",
        "output": str(output),
        "block_rows": "4",
        **flags,
    }
    return ["search", *(word for name, value in given.items() for word in (f"--{name}", value))]


def _search(case, tmp_path, **flags):
    output = tmp_path / "found.json"
    cli.main(_words(case, output, **flags))
    return json.loads(output.read_text())


def _check(found, setting):
    """The same ids in the same order with the same scores, up to the rounding of a sum."""
    expected = OFFICIAL[setting]["similarities"]
    assert list(found) == list(expected)
    for query, results in expected.items():
        assert list(found[query]) == list(results), query
        scores = np.array(list(found[query].values())), np.array(list(results.values()))
        np.testing.assert_allclose(*scores, atol=1e-6)


@pytest.mark.parametrize(("setting", "k"), [("plain", "40"), ("k5", "5")])
def test_finds_what_the_official_search_finds(case, tmp_path, setting, k):
    _check(_search(case, tmp_path, k=k), setting)


def test_selected_ids_are_keys_without_their_tar(case, tmp_path, capsys):
    found = _search(case, tmp_path, k="20", selected_ids=f"{case}/selected.txt")
    _check(found, "selected")
    assert "9 positives and 14 distractors (26 not listed; 0 listed" in capsys.readouterr().out


def test_selected_ids_may_be_full_and_absent_ones_are_counted(case, tmp_path, capsys):
    keys = set(official_case.selected())
    names = [name for stem in official_case.ids() for name in official_case.ids()[stem]]
    full = [name for name in names if name.split("/")[1] in keys]
    (tmp_path / "full.txt").write_text("\n".join([*full[:5], *sorted(keys), "gone.tar/0", "ffff"]))
    found = _search(case, tmp_path, k="20", selected_ids=f"{tmp_path}/full.txt")
    _check(found, "selected")
    # A full id stands before its key, so the five keys named twice fit nothing.
    assert "(26 not listed; 7 listed are in no file)" in capsys.readouterr().out


def test_an_adapter_is_applied_to_queries_and_database(case, tmp_path, monkeypatch):
    weight, bias = official_case.adapter()

    class Adapter:
        def apply(self, rows):
            moved = rows.astype(np.float32) @ weight.T + bias
            return moved / np.linalg.norm(moved, axis=1, keepdims=True)

    given = []
    module = types.ModuleType("ilias_jax.search.adapter")
    module.read_adapter = lambda path: given.append(path) or Adapter()
    monkeypatch.setitem(sys.modules, "ilias_jax.search.adapter", module)
    _check(_search(case, tmp_path, k="40", adapter="layer.pth"), "adapted")
    assert given == ["layer.pth"]


def test_an_adapter_of_images_is_refused_for_texts(tmp_path):
    texts = _feature_file(tmp_path / "q.hdf5", ["mug_001/query/T001.txt"], _rows(1))
    positives = _feature_file(tmp_path / "p.hdf5", ["mug_001/pos/P.jpg"], _rows(1))
    inputs = search.open_inputs([epath.Path(texts)], [epath.Path(positives)], [])
    with pytest.raises(UserError, match="1 queries are texts, first mug_001/query/T001.txt"):
        search.rank(inputs, ExactSearch(make_mesh(), 8), 5, lambda rows: rows)


@pytest.mark.parametrize("setting", ["plain", "adapted"])
def test_our_metric_gives_the_official_map_for_the_official_rankings(case, setting):
    truth = read_ground_truth(epath.Path(case))
    expected = OFFICIAL[setting]
    # Any order of the database will do that begins with the positives.
    database = [*truth.positive_ids]
    for stem, names in official_case.ids().items():
        database += names if "distractors" in stem else []
    place = {name: row for row, name in enumerate(database)}
    queries = truth.image_query_ids
    results = [expected["similarities"][query] for query in queries]
    rows = np.array([[place[name] for name in result] for result in results], np.int32)
    scores = np.array([list(result.values()) for result in results], np.float32)
    # The length of the lists stands for k = 1000: either is more than an object's positives.
    found = evaluate(Ranking(queries, rows, scores), truth, rows.shape[1], len(database), 40, 0)
    assert found.map == pytest.approx(expected["map"], abs=1e-6)


def _inputs(case, **options):
    return search.open_inputs(
        feature_paths([f"{case}/features_image_queries.hdf5"]),
        feature_paths([f"{case}/features_positives.hdf5"]),
        feature_paths([f"{case}/features_distractors_{{idx}}.hdf5"]),
        **options,
    )


@pytest.mark.parametrize(("k", "chosen"), [(5, "selected"), (1000, "all")])
def test_one_device_and_all_agree_to_the_bit(case, k, chosen):
    shortlist = read_id_list(epath.Path(case / "selected.txt")) if chosen == "selected" else None
    weight, _ = official_case.adapter()
    inputs = _inputs(case, shortlist=shortlist)
    one, all_devices, one_block = (
        search.rank(
            inputs,
            ExactSearch(make_mesh(devices=devices), block_rows, any_length=True),
            k,
            lambda rows: rows.astype(np.float32) @ weight.T,
        )
        for devices, block_rows in (
            (jax.devices()[:1], 7),
            (jax.devices(), 7),
            (jax.devices(), 1000),
        )
    )
    assert len(jax.devices()) > 1
    assert one.indices.shape == (6, min(k, inputs.database.num_rows()))
    np.testing.assert_array_equal(one.indices, all_devices.indices)
    np.testing.assert_array_equal(one.scores, all_devices.scores)
    np.testing.assert_array_equal(one.indices, one_block.indices)
    np.testing.assert_allclose(one.scores, one_block.scores, atol=1e-6)


def test_scann_searches_the_same_files(case):
    scann = search.rank(_inputs(case), ScannSearch(ScannConfig()), 40)
    exact = search.rank(_inputs(case), ExactSearch(make_mesh(), 8), 40)
    np.testing.assert_array_equal(scann.indices, exact.indices)


def test_the_order_of_the_index_is_kept_and_names_stay_with_their_rows(case, tmp_path):
    shuffled = tmp_path / "shuffled.hdf5"
    with h5py.File(case / "features_positives.hdf5") as file:
        names, rows = file["index"].asstr()[:], file["features"][:]
    order = np.random.default_rng(0).permutation(len(names))
    with h5py.File(shuffled, "w") as file:
        file["index"], file["features"] = names[order].astype(object), rows[order]
    found = _search(case, tmp_path, k="40", positives=str(shuffled), ids=str(case))
    _check(found, "plain")


def _feature_file(path, names, rows):
    with h5py.File(path, "w") as file:
        file.create_dataset("index", data=names, dtype=h5py.string_dtype())
        file.create_dataset("features", data=rows)
    return str(path)


def _unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _rows(count, dim=official_case.DIM):
    return np.eye(dim, dtype=np.float32)[np.arange(count) % dim]


BAD = {
    "vectors of another model": (
        {"queries": (["a/query/Q.jpg"], _rows(1, 8))},
        "vectors differ in length: .*bad.hdf5 has D = 8 and .*features_positives.hdf5 has D = 16",
    ),
    "a query twice": (
        {"queries": (["a/query/Q.jpg"] * 2, _rows(2))},
        "1 query ids come twice, first a/query/Q.jpg",
    ),
    "a positive among the distractors": (
        {"distractors": (["mug_001/pos/P001_00.jpg", "x.tar/0"], _rows(2))},
        "1 database ids come twice, first mug_001/pos/P001_00.jpg",
    ),
    "no query": ({"queries": ([], _rows(0))}, "no row to search in .*bad.hdf5"),
    "an unknown query": (
        {"queries": (["a/query/Q.jpg"], _rows(1))},
        r"1 queries are not in image_ids/, first a/query/Q.jpg",
    ),
    "other positives": (
        {"positives": (["mug_001/pos/P001_00.jpg", "b/pos/P.jpg", "a/pos/P.jpg"], _rows(3))},
        r"2 positives are not in image_ids/positive_ids.txt, first a/pos/P.jpg, b/pos/P.jpg; "
        r"8 positives of image_ids/positive_ids.txt are missing, first clock_002/",
    ),
    "vectors that are not normalised": (
        {"queries": (["mug_001/query/Q001_00.jpg"], 2 * _rows(1))},
        r"row 0 \(mug_001/query/Q001_00.jpg\) has length 2 and not 1 .*--normalize",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_messages_about_files(case, tmp_path, capsys, name):
    changes, message = BAD[name]
    flags = {
        role: _feature_file(tmp_path / "bad.hdf5", *content) for role, content in changes.items()
    }
    with pytest.raises(SystemExit):
        cli.main(_words(case, tmp_path / "s.json", ids=str(case), **flags))
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert re.search(message, error), error
    assert not (tmp_path / "s.json").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"output": "s.txt"}, "the official evaluator reads names that end in .json or .pkl"),
        ({"backend": "faiss"}, "search.backend='faiss' is not allowed; it must be one of 'exact'"),
        ({"k": "0"}, "search.k=0 is not allowed"),
        ({"block_rows": "0"}, "search.block_rows=0 is not allowed"),
        ({"total_distractors": "4"}, "1 of the 4 files of "),
        ({"queries": "none.hdf5"}, "none.hdf5: no such file"),
        ({"selected_ids": "none.txt"}, "none.txt: no such file; expected the official"),
        ({"ids": "none"}, "no such file; expected the official ILIAS layout"),
    ],
)
def test_messages_about_flags(case, tmp_path, monkeypatch, capsys, flags, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        cli.main(_words(case, **{"output": "s.json", **flags}))
    assert message in capsys.readouterr().err


def test_a_list_of_other_distractors_leaves_none(case, tmp_path, capsys):
    (tmp_path / "list.txt").write_text("mug_001/pos/P001_00.jpg\nx.tar/1\n")
    with pytest.raises(SystemExit):
        _search(case, tmp_path, selected_ids=f"{tmp_path}/list.txt")
    assert "no distractor is left to search" in capsys.readouterr().err


def test_embeddings_of_two_models_are_refused(tmp_path):
    paths = []
    for name in ("a", "b"):
        path = epath.Path(tmp_path) / f"{name}.safetensors"
        part = file.Embeddings(
            (f"{name}/1",), _rows(1), np.arange(1), {"model": name, "source": name}
        )
        file.write(path, part)
        paths.append(path)
    (epath.Path(tmp_path) / "folder.safetensors").mkdir()
    with pytest.raises(UserError, match=r"a\.safetensors and .*b\.safetensors are of different"):
        search.open_inputs(paths[:1], paths[1:], [])
    search.open_inputs(paths[:1], paths[:1], [])
    for name, what in (("none", "no such file"), ("folder", "is a folder")):
        with pytest.raises(UserError, match=rf"{name}\.safetensors: {what}"):
            search.open_inputs(paths[:1], [epath.Path(tmp_path) / f"{name}.safetensors"], [])


@pytest.mark.parametrize(
    ("role", "apply"),
    # What is applied may hide the length that a row had.
    [("queries", None), ("queries", _unit), ("distractors", None), ("distractors", _unit)],
)
def test_embeddings_that_are_not_normalised_are_named(tmp_path, role, apply):
    roles = {}
    for name in ("queries", "positives", "distractors"):
        rows = _rows(3)
        rows[2] *= 2 if name == role else 1
        path = epath.Path(tmp_path) / f"{name}.safetensors"
        ids = tuple(f"{name}/{row}" for row in range(3))
        file.write(path, file.Embeddings(ids, rows, np.arange(3), {}))
        roles[name] = [path]
    inputs = search.open_inputs(**roles)
    with pytest.raises(UserError, match=rf"{role}\.safetensors, row 2 \({role}/2\) has length 2"):
        search.rank(inputs, ExactSearch(make_mesh(), 8), 5, apply)


def test_positives_alone_can_be_searched(case, tmp_path):
    words = _words(case, tmp_path / "s.json")
    at = words.index("--distractors")
    cli.main(words[:at] + words[at + 2 :])
    found = json.loads((tmp_path / "s.json").read_text())
    assert all(set(results) == set(official_case.ids()["positives"]) for results in found.values())


def test_nothing_is_written_when_a_later_file_is_damaged(case, tmp_path, capsys):
    rows = _rows(3)
    rows[2] = np.nan
    bad = _feature_file(tmp_path / "bad.hdf5", ["z.tar/0", "z.tar/1", "z.tar/2"], rows)
    with pytest.raises(SystemExit):
        _search(case, tmp_path, distractors=bad)
    assert "row 2 (z.tar/2) holds NaN or infinity" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["bad.hdf5"]
