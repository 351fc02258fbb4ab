"""A run on other distractors than the listed ones: refused, or allowed by name and stated."""

import json

import color_world
import inventories
import numpy as np
import pytest
from etils import epath

from ilias_jax import benchmark
from ilias_jax.embeddings.database import check_embeddings
from ilias_jax.embeddings.extract import EmbeddedDataset
from ilias_jax.embeddings.file import Embeddings, write
from ilias_jax.embeddings.files import EmbeddingFiles, check_models
from ilias_jax.errors import UserError

IDS = ["a.tar/0", "a.tar/1", "b.tar/0", "b.tar/1"]


def _write(folder):
    """Two objects and the distractors `IDS`, each of a colour of its own: every query is solved."""
    color_world.write(
        folder,
        {"mug/query/Q000_00.jpg": 0, "cup/query/Q001_00.jpg": 1},
        {"mug/pos/P000_00.jpg": (0, 0.05, 0), "cup/pos/P001_00.jpg": (1, 0.2, 20)},
        [{"a.tar/0": 2, "a.tar/1": 3}, {"b.tar/0": 4, "b.tar/1": 5}],
        {"mug/query/T000.txt": 0, "cup/query/T001.txt": 1},
    )
    return color_world.model(np.eye(64, dtype=np.float32))


def test_a_subset_whose_list_fits_no_shard_is_refused(tmp_path):
    model = _write(tmp_path / "data")
    (tmp_path / "data" / "image_ids" / "mini_ilias_yfcc100m_ids.txt").write_text("8\n9\n")
    config = color_world.config(tmp_path / "data", dataset={"subset": "mini"})
    message = r"no distractor was embedded; missing_distractors \(2\): on .* in no shard: 8, 9;"
    with pytest.raises(UserError, match=message):
        benchmark.run(config, epath.Path(tmp_path / "w"), model)


@pytest.mark.parametrize("has_inventories", [True, False])
def test_a_database_id_that_comes_twice_is_refused(tmp_path, has_inventories):
    data = tmp_path / "data"
    color_world.write(
        data,
        {"mug/query/Q000_00.jpg": 0},
        {"mug/pos/P000_00.jpg": (0, 0.5, 0)},
        [{"a.tar/0": 1}, {"a.tar/0": 2}],
        {"mug/query/T000.txt": 0},
    )
    color_world.list_distractors(data, ["a.tar/0", "a.tar/1"])
    message = "database ids come twice"
    if has_inventories:
        inventories.write(data)
        message = r"repeated_distractors \(1\): in .* more than once: a.tar/0, a.tar/0; a database"
    else:
        inventories.remove(data)
    config = color_world.config(data, dataset={"allow": "missing_distractors"})
    model = color_world.model(np.eye(64, dtype=np.float32))
    with pytest.raises(UserError, match=message):
        benchmark.run(config, epath.Path(tmp_path / "work"), model)
    assert (tmp_path / "work" / "embeddings").exists() != has_inventories


def _lose_a_distractor(folder, how):
    """A world whose list has one distractor more than its shards."""
    model = _write(folder)
    color_world.list_distractors(folder, [*IDS, "b.tar/lost"])
    if how == "inventories":
        inventories.write(folder)
    else:
        inventories.remove(folder)
    return model


@pytest.mark.parametrize("how", ["inventories", "counts"])
def test_a_missing_distractor_stops_a_run_before_anything_is_embedded(tmp_path, how):
    model = _lose_a_distractor(tmp_path / "data", how)
    config = color_world.config(tmp_path / "data")
    with pytest.raises(UserError) as error:
        benchmark.run(config, epath.Path(tmp_path / "work"), model)
    name = ": b.tar/lost" if how == "inventories" else ""
    assert (
        f"\n  missing_distractors (1): on the list but in no shard{name}; convert the missing "
        "tars, or allow missing_distractors\n" in str(error.value)
    )
    assert "dataset.allow takes the names missing_distractors, extra" in str(error.value)
    assert not (tmp_path / "work" / "embeddings").exists()


@pytest.mark.parametrize("how", ["inventories", "counts"])
def test_an_allowed_missing_distractor_is_in_the_report(tmp_path, how):
    model = _lose_a_distractor(tmp_path / "data", how)
    config = color_world.config(tmp_path / "data", dataset={"allow": "missing_distractors"})
    document = benchmark.run(config, epath.Path(tmp_path / "work"), model)
    assert document["results"]["image_to_image"]["map@1000"] == 100.0
    facts = document["dataset"]
    assert facts["num_distractors"] == 4 and facts["num_expected_distractors"] == 5
    assert facts["num_missing_distractors"] == 1 and facts["num_extra_distractors"] == 0
    assert facts["allowed"] == ["missing_distractors"]
    report = tmp_path / "work" / "report"
    sentence = (
        "Listed distractors: 5. Missing from the shards: 1 (missing_distractors was allowed)."
    )
    assert sentence in (report / "report.md").read_text()
    assert sentence in (report / "index.html").read_text()
    written = json.loads((report / "report.json").read_text())
    assert written["dataset"] == facts
    assert written["manifest"]["config"]["dataset"]["allow"] == "missing_distractors"


def test_rejected_distractors_are_not_missing_but_stated(tmp_path):
    model = _write(tmp_path / "data")
    color_world.list_distractors(tmp_path / "data", [*IDS, "b.tar/bad"])
    inventories.write(tmp_path / "data", {1: [("b.tar/bad", "no JPEG")]})
    document = benchmark.run(
        color_world.config(tmp_path / "data"), epath.Path(tmp_path / "work"), model
    )
    facts = document["dataset"]
    assert facts["num_distractors"] == 4 and facts["num_expected_distractors"] == 5
    assert facts["num_missing_distractors"] == 0 and facts["allowed"] == []
    assert facts["num_rejected"] == facts["num_rejected_at_conversion"] == 1
    written = json.loads((tmp_path / "work" / "report" / "report.json").read_text())
    assert written["rejected_at_conversion"] == [["b.tar/bad", "no JPEG"]]


def test_without_a_list_of_distractors_a_run_must_be_told(tmp_path):
    model = _write(tmp_path / "data")
    (tmp_path / "data" / "image_ids" / "distractor_ids.txt.gz").unlink()
    config = color_world.config(tmp_path / "data")
    with pytest.raises(
        UserError, match=r"unchecked_distractors .1.: .*image_ids/distractor_ids.txt.g"
    ):
        benchmark.run(config, epath.Path(tmp_path / "work"), model)
    config = color_world.config(tmp_path / "data", dataset={"allow": "unchecked_distractors"})
    facts = benchmark.run(config, epath.Path(tmp_path / "work"), model)["dataset"]
    assert facts["num_distractors"] == 4 and facts["num_expected_distractors"] is None
    text = (tmp_path / "work" / "report" / "report.md").read_text()
    assert "There was no list to check the distractors against." in text


def test_other_distractors_of_the_same_number_are_refused_without_inventories(tmp_path):
    model = _write(tmp_path / "data")
    inventories.remove(tmp_path / "data")
    color_world.list_distractors(tmp_path / "data", ["a.tar/0", "a.tar/1", "b.tar/0", "c.tar/1"])
    message = r"missing_distractors .1.: .*: c.tar/1; .* extra_distractors .1.: .*: b.tar/1; remove"
    with pytest.raises(UserError, match=message):
        benchmark.run(color_world.config(tmp_path / "data"), epath.Path(tmp_path / "w"), model)


@pytest.mark.parametrize("has_inventories", [True, False])
def test_mini_runs_by_key_on_the_hugging_face_tars(tmp_path, has_inventories):
    data = tmp_path / "data"
    tar = "mini_ilias_yfcc100m-000000.tar"
    color_world.write(
        data,
        {"mug/query/Q000_00.jpg": 0},
        {"mug/pos/P000_00.jpg": (0, 0.5, 0)},
        [{f"{tar}/0a": 1, f"{tar}/0b": 2, f"{tar}/0c": 3}],
        {"mug/query/T000.txt": 0},
    )
    (inventories.write if has_inventories else inventories.remove)(data)
    lines = "y_123.tar/0c\n0a\n"  # official: of other tars, or keys alone
    (data / "image_ids" / "mini_ilias_yfcc100m_ids.txt").write_text(lines)
    config = color_world.config(data, dataset={"subset": "mini"})
    model = color_world.model(np.eye(64, dtype=np.float32))
    facts = benchmark.run(config, epath.Path(tmp_path / "work"), model)["dataset"]
    assert facts["num_distractors"] == facts["num_expected_distractors"] == 2
    assert facts["num_missing_distractors"] == facts["num_extra_distractors"] == 0


def _embedded(folder, fingerprints, dims):
    """One file a split, and the texts', with these fingerprints and these D."""
    parts = {}
    for split, fingerprint in fingerprints.items():
        path = epath.Path(folder) / f"{split}.safetensors"
        rows = np.eye(2, dims.get(split, 4), dtype=np.float32)
        ids = (f"{split}/0", f"{split}/1")
        write(path, Embeddings(ids, rows, np.arange(2), {"source": split, **fingerprint}))
        parts[split] = EmbeddingFiles([path])
    return EmbeddedDataset(parts, {}, parts.pop("text"))


MODEL = {"model": {"name": "a", "sha256": "12"}, "revision": 1}


def _check(folder, dims=None, **changes):
    splits = ("image_query", "positive", "distractor", "text")
    fingerprints = {split: {**MODEL, **changes.get(split, {})} for split in splits}
    check_embeddings(_embedded(folder, fingerprints, dims or {}))


def test_files_of_one_model_belong_together_whatever_their_source_views_and_dtype(tmp_path):
    _check(tmp_path)
    views = {"views": {"crop_to_box": True}}
    _check(tmp_path, image_query=views, positive=views, text={"text": {"template": "a"}})
    _check(tmp_path, distractor={"storage_dtype": "float16", "subset": {"name": "mini"}})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"distractor": {"model": {"name": "a", "sha256": "34"}}},
            r"image_query\.safetensors and .*distractor\.safetensors are of different models or "
            r"preprocessing: model\.sha256 is 12 in the first and 34 in the second",
        ),
        ({"positive": {"preprocessing": {"side": 4}}}, "positive.*preprocessing is None in the fi"),
        ({"text": {"revision": 2}}, r"text\.safetensors .*revision is 1 in the first and 2 in"),
        (
            {"dims": {"distractor": 5}},
            r"image_query\.safetensors has D = 4 and .*distractor\.safetensors has D = 5",
        ),
    ],
)
def test_files_of_two_models_are_named(tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        _check(tmp_path, **changes)


def test_views_may_not_differ_within_a_split(tmp_path):
    _check(tmp_path)
    paths = [epath.Path(tmp_path) / f"{split}.safetensors" for split in ("positive", "distractor")]
    views = {**MODEL, "views": {"scales": [1, 2]}}
    write(paths[1], Embeddings(("a",), np.eye(1, 4, dtype=np.float32), np.arange(1), views))
    check_models([paths[:1], paths[1:]])
    with pytest.raises(UserError, match=r"views is None in the first and \{'scales': \[1, 2\]\}"):
        check_models([paths])
