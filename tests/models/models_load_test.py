import dataclasses
import hashlib
import pathlib

import numpy as np
import parity_weights as seeded
import pytest
import safetensors.numpy
import tiny_tokenizer
from etils import epath
from small_siglip import CONFIG, SIZES
from torch_written import to_torch

from ilias_jax.config import ModelConfig
from ilias_jax.errors import UserError
from ilias_jax.files import sha256
from ilias_jax.model import Model
from ilias_jax.models.checkpoints.flax_names import from_big_vision
from ilias_jax.models.hub import record_origin
from ilias_jax.models.load import load_model, tower_model
from ilias_jax.models.registry.entry import PublishedFile, Variant, Vocabulary
from ilias_jax.models.registry.registry import VARIANTS, resolve
from ilias_jax.models.registry.siglip import siglip
from ilias_jax.models.tokenizers import Tokenizer

URL = "https://example.org/small/"


@pytest.fixture
def small(tmp_path, monkeypatch) -> ModelConfig:
    """A small model in the table, with its files."""
    files = {"big_vision": PublishedFile(URL + "small.npz")}
    vocabulary = Vocabulary(PublishedFile(URL + "sentencepiece.model"), seeded.VOCAB, pad_id=0)
    reference = ("gelu_exact", "gelu_tanh")
    row = Variant(CONFIG, 96, 128, files, vocabulary, reference)
    monkeypatch.setitem(VARIANTS, "small", row)
    np.savez(tmp_path / "small.npz", **seeded.weights())
    (tmp_path / "small.model").write_bytes(tiny_tokenizer.train())
    return ModelConfig(
        name="small",
        checkpoint=str(tmp_path / "small.npz"),
        tokenizer=str(tmp_path / "small.model"),
    )


def load(config: ModelConfig) -> Model:
    return load_model(resolve(config))


def error_of(config: ModelConfig) -> str:
    with pytest.raises(UserError) as error:
        load(config)
    return str(error.value)


def test_the_bundled_model_loads():
    model = load(ModelConfig(name="tiny"))
    assert model.preprocessing.resolution == VARIANTS["tiny"].test_resolution
    assert model.tokenize(["a red mug"]).max() < VARIANTS["tiny"].architecture.text.vocab_size
    assert all(np.isfinite(value).all() for value in model.parameters.values())


def test_a_model_is_what_its_row_and_its_files_say(small):
    model = load(small)
    assert model.name == "small"
    assert model.preprocessing.resolution == 128
    assert model.preprocessing.patch_size == seeded.PATCH
    assert model.preprocessing.max_side == 8
    expected = from_big_vision(seeded.weights(), CONFIG, "x")
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
    model = load(config)
    assert model.preprocessing.resolution == 100
    assert model.preprocessing.max_side == 7
    assert model.tokenize.cleaning == "lower"
    expected = {"activation": "gelu_exact", "dtype": "bfloat16"}
    assert expected.items() <= model.fingerprint.items()
    expected = {"text_activation": "gelu_exact", "text_cleaning": "lower"}
    assert expected.items() <= model.text_fingerprint.items()


@pytest.mark.parametrize(
    "change",
    [
        {"activation": "gelu_exact"},
        {"dtype": "bfloat16"},
        {"resolution": 96},
    ],
)
def test_the_fingerprint_tells_how_the_model_runs(small, change):
    usual = load(small).image_fingerprint()
    assert load(small).image_fingerprint() == usual
    assert load(dataclasses.replace(small, **change)).image_fingerprint() != usual


@pytest.mark.parametrize(
    ("choice", "image", "text"),
    [("reference", "gelu_exact", "gelu_tanh"), ("native", "gelu_tanh", "gelu_tanh")],
)
def test_the_fingerprints_hold_what_a_choice_of_activations_comes_to(small, choice, image, text):
    model = load(dataclasses.replace(small, activation=choice))
    assert model.fingerprint["activation"] == image
    assert model.text_fingerprint["text_activation"] == text
    tanh = load(dataclasses.replace(small, activation="gelu_tanh"))
    same = image == "gelu_tanh"
    assert (model.image_fingerprint() == tanh.image_fingerprint()) == same
    assert model.text_fingerprint == tanh.text_fingerprint


def test_another_tokenizing_changes_the_texts_fingerprint_alone(small):
    usual = load(small)
    other = load(dataclasses.replace(small, text_cleaning="lower"))
    assert other.text_fingerprint != usual.text_fingerprint
    assert other.image_fingerprint() == usual.image_fingerprint()


def test_the_fingerprint_changes_with_the_weights(small):
    usual = load(small).image_fingerprint()
    np.savez(small.checkpoint, **seeded.weights(seed=9))
    assert load(small).image_fingerprint() != usual


def test_a_tokenizer_of_more_pieces_than_the_model_knows_is_refused(small, monkeypatch):
    """Its tokens would fall off the embedding's end."""
    pieces = Tokenizer(tiny_tokenizer.train(), 4).processor().get_piece_size()
    few = siglip(**SIZES | {"vocab_size": pieces - 1})
    row = VARIANTS["small"]
    vocabulary = dataclasses.replace(row.vocabulary, size=pieces - 1)
    row = dataclasses.replace(row, architecture=few, vocabulary=vocabulary)
    monkeypatch.setitem(VARIANTS, "small", row)
    arrays = seeded.weights()
    arrays["txt/Embed_0/embedding"] = arrays["txt/Embed_0/embedding"][: pieces - 1]
    np.savez(small.checkpoint, **arrays)
    message = error_of(small)
    assert f"has {pieces} pieces, but small knows {pieces - 1}" in message
    assert vocabulary.file.url in message


def test_a_tokenizer_may_have_extra_pieces_at_its_end(small, monkeypatch):
    """As that of the multilingual models; a text that has one of them is refused."""
    pieces = Tokenizer(tiny_tokenizer.train(), 4).processor().get_piece_size()
    few = siglip(**SIZES | {"vocab_size": pieces - 1})
    row = VARIANTS["small"]
    vocabulary = dataclasses.replace(row.vocabulary, size=pieces - 1, extra_pieces=1)
    row = dataclasses.replace(row, architecture=few, vocabulary=vocabulary)
    monkeypatch.setitem(VARIANTS, "small", row)
    arrays = seeded.weights()
    arrays["txt/Embed_0/embedding"] = arrays["txt/Embed_0/embedding"][: pieces - 1]
    np.savez(small.checkpoint, **arrays)
    model = load(small)
    assert model.tokenize(["red mug"]).max() < pieces - 1
    piece = model.tokenize.processor().id_to_piece(pieces - 1).removeprefix("\u2581")
    with pytest.raises(UserError, match=f"the text '{piece}' has '.*', which the model does not"):
        model.tokenize([piece])


def test_a_tokenizer_of_a_much_smaller_vocabulary_is_refused(small, monkeypatch):
    """SigLIP's with a SigLIP 2 checkpoint would run and give nonsense."""
    monkeypatch.setattr("ilias_jax.models.load._FEWER_PIECES", 10)
    pieces = Tokenizer(tiny_tokenizer.train(), 4).processor().get_piece_size()
    assert f"has {pieces} pieces, but small knows {seeded.VOCAB}" in error_of(small)


def test_the_image_tower_runs_alone(small):
    """No tokenizer is looked for then, and the file may hold no text tower."""
    config = dataclasses.replace(small, towers="image", tokenizer="nowhere.model")
    model = load(config)
    assert model.parameters and all(path.startswith("image.") for path in model.parameters)
    assert (model.embed_texts, model.tokenize, model.text_fingerprint) == (None, None, {})
    assert model.image_fingerprint() == load(small).image_fingerprint()


def test_safetensors_of_the_same_weights_give_the_same_parameters(small, tmp_path):
    usual = load(small)
    arrays = dict(to_torch(usual.parameters, CONFIG))
    path = tmp_path / "both.safetensors"
    safetensors.numpy.save_file({key: np.array(arrays[key], order="C") for key in arrays}, path)
    model = load(dataclasses.replace(small, checkpoint=str(path)))
    for name, value in usual.parameters.items():
        np.testing.assert_array_equal(model.parameters[name], value)
    assert model.fingerprint["sha256"] != usual.fingerprint["sha256"]


def test_a_downloaded_file_that_has_changed_is_refused(small):
    path, digest = epath.Path(small.checkpoint), sha256(epath.Path(small.checkpoint))
    record_origin(path, PublishedFile(URL + "small.npz"), digest)
    model = load(small)
    assert model.origin.keys() == {"checkpoint_origin"}
    text = model.origin["checkpoint_origin"]
    assert text.startswith(f"{URL}small.npz, downloaded 2")
    assert text.endswith("sha256 recorded then, none is published")
    np.savez(small.checkpoint, **seeded.weights(seed=9))
    message = error_of(small)
    assert message.startswith(f"{path} is not what was downloaded from {URL}small.npz")
    assert digest in message and sha256(path) in message


def test_a_checkpoint_of_another_architecture_is_refused(small):
    message = error_of(dataclasses.replace(small, name="tiny"))
    assert f"{small.checkpoint} does not fit the model" in message


def test_an_image_tower_alone_embeds_no_texts():
    parameters = from_big_vision(seeded.weights(), CONFIG, "x")
    model = tower_model("alone", CONFIG, parameters, None, 96, "float32", {})
    assert model.embed_texts is None
    assert model.tokenize is None
    assert model.text_fingerprint == {}
