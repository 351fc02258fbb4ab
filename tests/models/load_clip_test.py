"""A small CLIP from its files to vectors: open_clip's names, either file of two, CLIP's texts."""

import dataclasses

import clip_vocabulary
import jax
import numpy as np
import pytest
import safetensors.numpy
from small_clip import CONFIG, DIM, GRID, LENGTH, NAME, PATCH, TEXTS, parameters, write
from torch_written import to_torch

from ilias_jax.config import ModelConfig
from ilias_jax.errors import UserError
from ilias_jax.model import Model
from ilias_jax.models.checkpoints import torch_names
from ilias_jax.models.dual_encoder import DualEncoderConfig
from ilias_jax.models.load import load_model
from ilias_jax.models.parameters import parameter_shapes
from ilias_jax.models.registry.clip import CLIP_VOCABULARY
from ilias_jax.models.registry.entry import OPENAI, PublishedFile, Variant
from ilias_jax.models.registry.registry import VARIANTS, resolve
from ilias_jax.models.tokenizers import END_ID


def load(config: ModelConfig) -> Model:
    return load_model(resolve(config))


@pytest.fixture
def config(tmp_path, monkeypatch) -> ModelConfig:
    """The model in the table, with its files."""
    files = {"open_clip": PublishedFile("https://example.org/open_clip.safetensors")}
    row = Variant(
        CONFIG,
        PATCH * GRID,
        4 * PATCH,
        files,
        CLIP_VOCABULARY,
        ("gelu_exact", None),
        OPENAI,
    )
    monkeypatch.setitem(VARIANTS, NAME, row)
    write(tmp_path / "both", 0, torch_names.CLIP, "both")
    write(tmp_path / "image", 1, torch_names.TIMM, "image")
    (tmp_path / "vocabulary").write_bytes(clip_vocabulary.vocabulary())
    vocabulary = str(tmp_path / "vocabulary")
    return ModelConfig(name=NAME, checkpoint=str(tmp_path / "both"), tokenizer=vocabulary)


def test_both_towers_come_from_one_file(config):
    model = load(config)
    assert model.parameters.keys() == parameters(0).keys()
    for path, value in parameters(0).items():
        np.testing.assert_array_equal(model.parameters[path], value)
    how = model.preprocessing
    assert (how.resolution, how.patch_size, (how.mean, how.std)) == (4 * PATCH, PATCH, OPENAI)
    tokens = model.tokenize(TEXTS)
    assert tokens.shape == (3, LENGTH) and (tokens == END_ID).sum() == 3
    texts = jax.jit(model.embed_texts)(model.parameters, tokens)
    pixels = np.random.default_rng(2).normal(size=(2, 12, PATCH**2 * 3)).astype(np.float32)
    grid = np.asarray([(3, 4), (2, 2)], np.int32)
    images = jax.jit(model.embed_images)(model.parameters, pixels, grid)
    assert texts.shape == (3, DIM) and images.shape == (2, DIM)
    assert np.isfinite(texts).all() and np.isfinite(images).all()


def test_the_report_says_which_activations_ran(config):
    native, reference = (
        load(dataclasses.replace(config, activation=choice)) for choice in ("native", "reference")
    )
    assert native.fingerprint["activation"] == "quick_gelu"
    assert reference.fingerprint["activation"] == "gelu_exact"
    for model in (native, reference):
        assert model.text_fingerprint["text_activation"] == "quick_gelu"
        assert model.text_fingerprint["text_cleaning"] == "clip"


def test_the_text_tower_may_come_from_another_file(config, tmp_path):
    image = str(tmp_path / "image")
    mixed = dataclasses.replace(config, checkpoint=image, text_checkpoint=config.checkpoint)
    model, one = load(mixed), load(config)
    for path, value in model.parameters.items():
        np.testing.assert_array_equal(value, parameters(path.startswith("image."))[path])
    assert model.image_fingerprint() != one.image_fingerprint()
    assert model.text_fingerprint["text_sha256"] == one.fingerprint["sha256"]
    with pytest.raises(UserError, match="image has no text tower.*model.text_checkpoint"):
        load(dataclasses.replace(config, checkpoint=image))


def test_an_image_tower_alone_needs_no_vocabulary(config, tmp_path):
    alone = ModelConfig(name=NAME, checkpoint=str(tmp_path / "image"), towers="image")
    model = load(alone)
    assert model.embed_texts is None and model.tokenize is None
    assert all(path.startswith("image.") for path in model.parameters)


def test_a_vocabulary_of_another_kind_is_refused(config, tmp_path):
    (tmp_path / "other").write_bytes(b"\n\x0b\n\x05<unk>")
    with pytest.raises(UserError, match="other is not CLIP's vocabulary"):
        load(dataclasses.replace(config, tokenizer=str(tmp_path / "other")))


@pytest.mark.parametrize("side", [GRID, 5])
def test_a_grid_that_nobody_published_is_the_files(config, tmp_path, monkeypatch, side):
    row = dataclasses.replace(VARIANTS[NAME], open_grid=True)
    monkeypatch.setitem(VARIANTS, NAME, row)
    image = dataclasses.replace(CONFIG.image, native_grid=side)
    values = {
        path: np.zeros(shape, np.float32)
        for path, shape in parameter_shapes(DualEncoderConfig(image)).items()
    }
    arrays = dict(to_torch(values, DualEncoderConfig(image), "image"))
    arrays = {f"model.module.encoder.{key}": value for key, value in arrays.items()}
    safetensors.numpy.save_file(arrays, tmp_path / "file")
    model = load(ModelConfig(name=NAME, checkpoint=str(tmp_path / "file"), towers="image"))
    assert model.parameters["image.position"].shape[:2] == (side, side)
