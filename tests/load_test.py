import dataclasses
import hashlib
import pathlib

import numpy as np
import parity_weights as seeded
import pytest
import tiny_tokenizer

from ilias_jax.config import ModelConfig
from ilias_jax.errors import UserError
from ilias_jax.towers import big_vision
from ilias_jax.towers.files import find_files
from ilias_jax.towers.layers import Width
from ilias_jax.towers.load import load_model, sha256, siglip_model
from ilias_jax.towers.siglip import SiglipConfig
from ilias_jax.towers.tokenizer import Tokenizer
from ilias_jax.towers.variants import VARIANTS, Variant

BASE = "vit_base_patch16_siglip_384.webli"
CONFIG = SiglipConfig(
    image=Width(**seeded.IMAGE),
    text=Width(**seeded.TEXT),
    patch_size=seeded.PATCH,
    native_grid=seeded.NATIVE_GRID,
    vocab_size=seeded.VOCAB,
    text_length=seeded.TEXT_LENGTH,
)
URL = "https://example.org/small/"


@pytest.fixture
def small(tmp_path, monkeypatch) -> ModelConfig:
    """A small model in the table, with its files."""
    row = Variant(CONFIG, 96, 128, URL + "small.npz", URL + "sentencepiece.model", pad_id=0)
    monkeypatch.setitem(VARIANTS, "small", row)
    np.savez(tmp_path / "small.npz", **seeded.weights())
    (tmp_path / "small.model").write_bytes(tiny_tokenizer.train())
    return ModelConfig(
        name="small",
        checkpoint=str(tmp_path / "small.npz"),
        tokenizer=str(tmp_path / "small.model"),
    )


def error_of(config: ModelConfig) -> str:
    with pytest.raises(UserError) as error:
        load_model(config)
    return str(error.value)


def test_an_unknown_model_gets_a_suggestion():
    message = error_of(ModelConfig(name="vit_base_patch16_siglip_383.webli"))
    assert message.startswith("vit_base_patch16_siglip_383.webli is no model (model.name); ")
    assert f"did you mean {BASE}?" in message
    assert all(name in message for name in VARIANTS)


def test_no_name_at_all_lists_the_models():
    assert "'' is no model (model.name)" in error_of(ModelConfig())


def test_missing_files_are_both_named_with_the_command_that_brings_them(tmp_path):
    checkpoint, tokenizer = tmp_path / "a" / "b.npz", tmp_path / "t.model"
    config = ModelConfig(name=BASE, checkpoint=str(checkpoint), tokenizer=str(tokenizer))
    row = VARIANTS[BASE]
    first, second = error_of(config).splitlines()
    curl = "curl --create-dirs -Lo"
    assert first == (
        f"model.checkpoint: {checkpoint} does not exist. Get it: "
        f"{curl} {checkpoint} {row.checkpoint}"
    )
    assert second == (
        f"model.tokenizer: {tokenizer} does not exist. Get it: {curl} {tokenizer} {row.tokenizer}"
    )


def test_files_that_are_not_configured_are_both_named():
    first, second = error_of(ModelConfig(name=BASE)).splitlines()
    row = VARIANTS[BASE]
    assert first.startswith("model.checkpoint is empty")
    assert first.endswith(f"-Lo checkpoints/webli_en_b16_384_68578854.npz {row.checkpoint}")
    assert second.startswith("model.tokenizer is empty")
    assert second.endswith(f"-Lo checkpoints/sentencepiece.model {row.tokenizer}")


def test_only_the_missing_one_is_named(tmp_path):
    (tmp_path / "t.model").write_bytes(tiny_tokenizer.train())
    config = ModelConfig(name=BASE, tokenizer=str(tmp_path / "t.model"))
    assert "model.tokenizer" not in error_of(config)


def test_a_bundled_model_cannot_be_fetched_from_a_url(tmp_path):
    message = error_of(ModelConfig(name="tiny", checkpoint=str(tmp_path / "none.npz")))
    assert f"{tmp_path / 'none.npz'} does not exist" in message
    assert "curl" not in message
    assert "data/tiny/checkpoint.npz" in message


def test_the_bundled_models_files_are_found_without_configuration():
    files = find_files(ModelConfig(name="tiny"))
    assert files.checkpoint.exists() and files.tokenizer.exists()
    assert pathlib.Path(files.checkpoint).name == "checkpoint.npz"


def test_a_configured_file_goes_before_the_bundled_one(tmp_path):
    own = tmp_path / "own.model"
    own.write_bytes(tiny_tokenizer.train())
    files = find_files(ModelConfig(name="tiny", tokenizer=str(own)))
    assert pathlib.Path(files.tokenizer) == own


def test_the_bundled_model_loads():
    model = load_model(ModelConfig(name="tiny"))
    assert model.preprocessing.resolution == VARIANTS["tiny"].test_resolution
    assert model.tokenize(["a red mug"]).max() < VARIANTS["tiny"].architecture.vocab_size
    assert all(np.isfinite(value).all() for value in model.parameters.values())


def test_a_model_is_what_its_row_and_its_files_say(small):
    model = load_model(small)
    assert model.name == "small"
    assert model.preprocessing.resolution == 128
    assert model.preprocessing.patch_size == seeded.PATCH
    assert model.preprocessing.max_side == 8
    expected = big_vision.from_arrays(seeded.weights(), CONFIG, "x")
    assert model.parameters.keys() == expected.keys()
    for path, value in model.parameters.items():
        np.testing.assert_array_equal(value, expected[path])
    tokens = model.tokenize(["red mug"])
    assert tokens.shape == (1, seeded.TEXT_LENGTH)
    assert tokens[0, -1] == 0  # the row's padding
    content = pathlib.Path(small.checkpoint).read_bytes()
    assert model.fingerprint["sha256"] == hashlib.sha256(content).hexdigest()
    content = pathlib.Path(small.tokenizer).read_bytes()
    assert model.text_fingerprint["tokenizer_sha256"] == hashlib.sha256(content).hexdigest()


def test_the_configuration_decides_how_the_model_runs(small):
    config = dataclasses.replace(
        small, resolution=100, activation="gelu_exact", dtype="bfloat16", text_cleaning="lower"
    )
    model = load_model(config)
    assert model.preprocessing.resolution == 100
    assert model.preprocessing.max_side == 7
    assert model.tokenize.cleaning == "lower"
    expected = {"activation": "gelu_exact", "dtype": "bfloat16"}
    assert expected.items() <= model.fingerprint.items()
    assert model.text_fingerprint["text_cleaning"] == "lower"


@pytest.mark.parametrize(
    "change",
    [
        {"activation": "gelu_exact"},
        {"dtype": "bfloat16"},
        {"resolution": 96},
    ],
)
def test_the_fingerprint_tells_how_the_model_runs(small, change):
    usual = load_model(small).image_fingerprint()
    assert load_model(small).image_fingerprint() == usual
    assert load_model(dataclasses.replace(small, **change)).image_fingerprint() != usual


def test_another_tokenizing_changes_the_texts_fingerprint_alone(small):
    usual = load_model(small)
    other = load_model(dataclasses.replace(small, text_cleaning="lower"))
    assert other.text_fingerprint != usual.text_fingerprint
    assert other.image_fingerprint() == usual.image_fingerprint()


def test_the_fingerprint_changes_with_the_weights(small):
    usual = load_model(small).image_fingerprint()
    np.savez(small.checkpoint, **seeded.weights(seed=9))
    assert load_model(small).image_fingerprint() != usual


def test_a_tokenizer_of_more_pieces_than_the_model_knows_is_refused(small, monkeypatch):
    """Its tokens would fall off the embedding's end."""
    pieces = Tokenizer(tiny_tokenizer.train(), 4).processor().get_piece_size()
    few = dataclasses.replace(CONFIG, vocab_size=pieces - 1)
    row = dataclasses.replace(VARIANTS["small"], architecture=few)
    monkeypatch.setitem(VARIANTS, "small", row)
    arrays = seeded.weights()
    arrays["txt/Embed_0/embedding"] = arrays["txt/Embed_0/embedding"][: pieces - 1]
    np.savez(small.checkpoint, **arrays)
    message = error_of(small)
    assert f"has {pieces} pieces, but small knows {pieces - 1}" in message
    assert row.tokenizer in message


def test_a_checkpoint_of_another_architecture_is_refused(small):
    message = error_of(dataclasses.replace(small, name="tiny"))
    assert f"{small.checkpoint} does not fit the model" in message


def test_an_image_tower_alone_embeds_no_texts():
    parameters = big_vision.from_arrays(seeded.weights(), CONFIG, "x")
    model = siglip_model("alone", CONFIG, parameters, None, 96, "float32", {})
    assert model.embed_texts is None
    assert model.tokenize is None
    assert model.text_fingerprint == {}


def test_sha256_reads_files_longer_than_one_chunk(tmp_path, monkeypatch):
    monkeypatch.setattr("ilias_jax.towers.load._CHUNK", 7)
    path = tmp_path / "file"
    path.write_bytes(b"0123456789" * 5)
    assert sha256(path) == hashlib.sha256(b"0123456789" * 5).hexdigest()
