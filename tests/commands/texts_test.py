"""`ilias-jax texts`: a text tower alone, from a file of two towers to ranked images."""

import dataclasses
import json
import math
import pathlib
import re
import shutil

import clip_vocabulary
import finished_run
import jax
import numpy as np
import pytest
import safetensors.numpy
import small_clip as clip
import tiny_tokenizer
from etils import epath
from torch_written import to_torch

from ilias_jax import cli
from ilias_jax.config import ModelConfig
from ilias_jax.dataset.reader import IliasDataset
from ilias_jax.errors import UserError
from ilias_jax.model import TextModel
from ilias_jax.models.dual_encoder import DualEncoderConfig
from ilias_jax.models.load import load_model, load_text_model
from ilias_jax.models.parameters import parameter_shapes
from ilias_jax.models.registry.clip import CLIP_VOCABULARY
from ilias_jax.models.registry.entry import OPENAI, PublishedFile, Variant
from ilias_jax.models.registry.registry import VARIANTS, resolve_row
from ilias_jax.official.features import open_features

pytestmark = pytest.mark.filterwarnings("ignore:.*load_module:DeprecationWarning")
RECIPE = pathlib.Path(__file__).parents[2] / "configs" / "model.py"
TEXTS_ALONE = "small_cnn"
# Names in the files of the two families whose image towers are CNNs.
CNNS = {
    "RN50": ("visual.conv1.weight", "visual.layer1.0.bn1.num_batches_tracked"),
    "ConvNeXt": ("visual.trunk.stem.0.weight", "visual.trunk.stages.0.blocks.0.gamma"),
}


def row(config: DualEncoderConfig) -> Variant:
    files = {"open_clip": PublishedFile("https://example.org/both.safetensors")}
    return Variant(config, 24, 32, files, CLIP_VOCABULARY, ("gelu_exact", None), OPENAI, note="CNN")


@pytest.fixture(autouse=True)
def rows(monkeypatch):
    """The small CLIP, and its text tower beside an image tower that is not known."""
    monkeypatch.setitem(VARIANTS, clip.NAME, row(clip.CONFIG))
    monkeypatch.setitem(VARIANTS, TEXTS_ALONE, row(dataclasses.replace(clip.CONFIG, image=None)))


@pytest.fixture
def files(tmp_path) -> dict[str, str]:
    """A file by family, that of the small CLIP, and the vocabulary."""
    (tmp_path / "vocabulary").write_bytes(clip_vocabulary.vocabulary())
    clip.write(tmp_path / "CLIP", 0, clip.torch_names.CLIP, "both")
    texts = dict(to_torch(clip.parameters(0), clip.CONFIG, "text"))
    for family, names in CNNS.items():
        arrays = {**texts, **{name: np.zeros(3, np.float32) for name in names}}
        arrays = {k: np.array(v, order="C") for k, v in arrays.items()}
        safetensors.numpy.save_file(arrays, tmp_path / family)
    return {name: str(tmp_path / name) for name in ("CLIP", *CNNS, "vocabulary")}


def expected(files: dict[str, str], texts: list[str]) -> np.ndarray:
    """By the model of both towers."""
    both = load_model(
        resolve_row(ModelConfig(clip.NAME, files["CLIP"], tokenizer=files["vocabulary"]))
    )
    vectors = np.asarray(jax.jit(both.embed_texts)(both.parameters, both.tokenize(texts)))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def load_texts(config: ModelConfig) -> TextModel:
    return load_text_model(resolve_row(config, needs_images=False))


@pytest.mark.parametrize("family", CNNS)
def test_texts_are_embedded_beside_an_image_tower_of_no_known_kind(family, files):
    config = ModelConfig(
        TEXTS_ALONE, files[family], tokenizer=files["vocabulary"], towers="text", dtype="float32"
    )
    model = load_texts(config)
    vectors = jax.jit(model.embed_texts)(model.parameters, model.tokenize(clip.TEXTS))
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    np.testing.assert_allclose(unit, expected(files, clip.TEXTS), atol=1e-6)
    assert model.fingerprint["text_activation"] == "quick_gelu"
    other = load_texts(dataclasses.replace(config, checkpoint=files["CLIP"]))
    assert other.fingerprint["sha256"] != model.fingerprint["sha256"]
    for path, value in other.parameters.items():
        np.testing.assert_array_equal(value, model.parameters[path])


def words(data: pathlib.Path, files: dict[str, str], name: str, output: pathlib.Path) -> list[str]:
    return [
        *("texts", "--config", f"{RECIPE}:{name}", "--output", str(output)),
        f"--config.dataset.data_dir={data}",
        f"--config.model.checkpoint={files['CLIP']}",
        f"--config.model.tokenizer={files['vocabulary']}",
        "--config.model.dtype=float32",
        "--config.embed.storage_dtype=float32",
    ]


def test_images_of_another_program_are_ranked_for_our_texts(tmp_path, files, capsys):
    """A run's exported features are what another program would have written."""
    workdir, out = finished_run.finish(tmp_path), tmp_path / "out"
    cli.main(["export", "--workdir", str(workdir), "--output", str(out), "--features"])
    output = tmp_path / "texts.hdf5"
    cli.main(words(tmp_path / "data", files, TEXTS_ALONE, output))
    said = capsys.readouterr().out
    assert f"{output}: 5 texts, 12 channels" in said
    assert f"checkpoint: {files['CLIP']}" in said and "text_activation: quick_gelu" in said
    queries = IliasDataset(epath.Path(tmp_path / "data"), "full").text_queries()
    written = open_features(epath.Path(output))
    assert written.ids() == [query.query_id for query in queries]
    texts = expected(files, [query.text for query in queries])
    np.testing.assert_allclose(written.vectors(), texts, atol=1e-6)

    searched = tmp_path / "found.json"
    search = ["search", "--queries", str(output), "--positives", str(out / "features_pos*.hdf5")]
    search += ["--distractors", str(out / "features_distractors_*.hdf5"), "--k", "7"]
    cli.main([*search, "--output", str(searched)])
    database = [open_features(epath.Path(out / "features_positives.hdf5"))]
    database += [open_features(path) for path in epath.Path(out).glob("features_dis*.hdf5")]
    ids = [one for file in database for one in file.ids()]
    scores = texts @ np.concatenate([file.vectors() for file in database]).T.astype(np.float32)
    found = json.loads(searched.read_text())
    for query, values in zip(queries, scores, strict=True):
        ranked = found[query.query_id]
        np.testing.assert_allclose(list(ranked.values()), np.sort(values)[::-1][:7], atol=1e-5)
        np.testing.assert_allclose(
            [values[ids.index(name)] for name in ranked], list(ranked.values()), atol=1e-5
        )


def test_any_model_has_its_texts_alone(tmp_path, files):
    finished_run.write_world(tmp_path / "data")
    alone, both = tmp_path / "alone.hdf5", tmp_path / "both.hdf5"
    cli.main(words(tmp_path / "data", files, TEXTS_ALONE, alone))
    cli.main(words(tmp_path / "data", files, clip.NAME, both))
    assert alone.read_bytes() == both.read_bytes()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            ["--output=texts.npy"],
            r"--output texts.npy: an official feature file is named FILE.hdf5",
        ),
        (["--config.model.towers=image"], "model.towers='image' has no texts"),
        (["--config.model.factory=a.py:f"], "model.factory=a.py:f: this command runs the models"),
        (["--config.model.resolution=64"], "model.resolution=64 would have no effect"),
        (["--config.model.text_checkpoint=t"], "model.checkpoint=.* would have no effect"),
        (["--config.model.name=dinov2_vitb14"], "model.name='dinov2_vitb14' has no text tower"),
        (["--config.mesh.model_partitions=3"], "model_partitions"),
        (["--config.adapter.path=nowhere"], "adapter.path: "),
        (["--config.dataset.data_dir=nowhere"], "nowhere"),
        (["--config.model.checkpoint=nowhere"], "model.checkpoint: nowhere does not exist"),
    ],
)
def test_what_it_cannot_do_is_said(tmp_path, files, capsys, monkeypatch, changes, message):
    monkeypatch.chdir(tmp_path)
    finished_run.write_world(tmp_path / "data")
    with pytest.raises(SystemExit):
        cli.main([*words(tmp_path / "data", files, TEXTS_ALONE, tmp_path / "t.hdf5"), *changes])
    error = capsys.readouterr().err
    assert re.search(message, error), error
    assert not list(tmp_path.glob("*.hdf5"))


def test_no_texts_are_no_success(tmp_path, files, capsys):
    finished_run.write_world(tmp_path / "data")
    shutil.rmtree(tmp_path / "data" / "ilias_text")
    output = tmp_path / "t.hdf5"
    for allowed in ("", "no_text_queries"):
        with pytest.raises(SystemExit):
            command = words(tmp_path / "data", files, TEXTS_ALONE, output)
            cli.main([*command, f"--config.dataset.allow={allowed}"])
        assert "has no text queries" in capsys.readouterr().err and not output.exists()


def test_a_recipe_of_a_run_is_taken_as_it_is(tmp_path, files):
    """Though its resolution and its image tower's file are of no use here."""
    finished_run.write_world(tmp_path / "data")
    plain, whole = tmp_path / "plain.hdf5", tmp_path / "whole.hdf5"
    cli.main(words(tmp_path / "data", files, clip.NAME, plain))
    own = [f"--config.model.text_checkpoint={files['CLIP']}", "--config.model.checkpoint=image"]
    own += ["--config.model.resolution=64", "--config.model.weights=timm"]
    cli.main([*words(tmp_path / "data", files, clip.NAME, whole), *own])
    assert plain.read_bytes() == whole.read_bytes()


def test_a_run_refuses_the_text_tower_alone(files):
    config = ModelConfig(clip.NAME, files["CLIP"], tokenizer=files["vocabulary"], towers="text")
    with pytest.raises(UserError, match="is for `ilias-jax texts`.* needs an image tower$"):
        resolve_row(config)
    with pytest.raises(UserError, match="small_cnn has none: CNN"):
        resolve_row(dataclasses.replace(config, name=TEXTS_ALONE))


def sharing_a_text_tower() -> list[list[str]]:
    """Names of all rows with texts, those of one architecture together."""
    groups: dict[object, list[str]] = {}
    for name, variant in VARIANTS.items():
        if variant.architecture.text is not None:
            groups.setdefault(variant.architecture.text, []).append(name)
    return list(groups.values())


@pytest.mark.slow
@pytest.mark.parametrize("names", sharing_a_text_tower(), ids=lambda names: names[0])
def test_every_text_tower_runs_at_its_full_size_by_its_name(names, tmp_path, monkeypatch):
    """From a file of the right format and size, with random weights and a small vocabulary."""
    monkeypatch.setattr("ilias_jax.models.load._FEWER_PIECES", 300_000)
    architecture = DualEncoderConfig(None, VARIANTS[names[0]].architecture.text)
    rng, weights, vocabulary = np.random.default_rng(4), tmp_path / "weights", tmp_path / "pieces"
    drawn = {
        path: rng.random(shape, np.float32) * 0.1 - 0.05
        for path, shape in parameter_shapes(architecture, "text").items()
    }
    arrays = dict(to_torch(drawn, architecture, "text"))
    arrays = {key: np.ascontiguousarray(value) for key, value in arrays.items()}
    safetensors.numpy.save_file(arrays, weights)
    for name in names:
        kind = VARIANTS[name].vocabulary.kind
        pieces = clip_vocabulary.vocabulary() if kind == "clip" else tiny_tokenizer.train()
        vocabulary.write_bytes(pieces)
        config = ModelConfig(name, str(weights), towers="text", tokenizer=str(vocabulary))
        model = load_texts(config)
        assert sum(value.size for value in model.parameters.values()) == count(architecture)
        vectors = jax.jit(model.embed_texts)(model.parameters, model.tokenize(clip.TEXTS))
        assert vectors.shape == (len(clip.TEXTS), VARIANTS[name].architecture.embedding_dim)
        assert np.isfinite(vectors).all() and np.ptp(vectors, axis=0).min() > 0
    weights.unlink()  # pytest keeps temporary folders; these are of up to 3 GB


def count(architecture: DualEncoderConfig) -> int:
    return sum(math.prod(shape) for shape in parameter_shapes(architecture, "text").values())
