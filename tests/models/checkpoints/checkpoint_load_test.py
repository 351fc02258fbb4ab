"""Which format a checkpoint has, whatever it is called; and that both give the same vectors."""

import io
import pickle
import re
import zipfile

import jax
import numpy as np
import parity_weights as seeded
import pytest
import safetensors.numpy
from small_siglip import CONFIG
from torch_written import to_torch

from ilias_jax.errors import UserError
from ilias_jax.models.checkpoints.flax_names import from_big_vision
from ilias_jax.models.load import load_checkpoint, tower_model
from ilias_jax.models.tokenizers import Tokenizer


@pytest.fixture(scope="module")
def parameters() -> dict[str, np.ndarray]:
    return from_big_vision(seeded.weights(), CONFIG, "seeded weights")


@pytest.fixture(scope="module")
def files(tmp_path_factory, parameters) -> dict:
    """The same weights in three files, named so that the name tells nothing."""
    folder = tmp_path_factory.mktemp("files")
    for name, towers in (("timm", "image"), ("open_clip", "both")):
        arrays = dict(to_torch(parameters, CONFIG, towers))
        arrays = {key: np.array(value, order="C") for key, value in arrays.items()}
        safetensors.numpy.save_file(arrays, folder / name)
    with open(folder / "big_vision", "wb") as file:
        np.savez(file, **seeded.weights())
    return {path.name: path for path in folder.iterdir()}


@pytest.mark.parametrize("name", ["big_vision", "open_clip"])
def test_both_towers_come_from_either_format(files, parameters, name):
    loaded = load_checkpoint(files[name], CONFIG)
    assert loaded.keys() == parameters.keys()
    for path, value in loaded.items():
        np.testing.assert_array_equal(value, parameters[path], err_msg=path)


@pytest.mark.parametrize("name", ["big_vision", "open_clip", "timm"])
def test_the_image_tower_comes_from_any_file(files, parameters, name):
    loaded = load_checkpoint(files[name], CONFIG, "image")
    expected = {path for path in parameters if path.startswith("image.")}
    assert loaded.keys() == expected
    for path, value in loaded.items():
        np.testing.assert_array_equal(value, parameters[path], err_msg=path)


def test_a_header_whose_length_begins_like_a_pickle_is_read(files, parameters, tmp_path):
    """Every 256th length does: its first byte is 0x80."""
    content = files["open_clip"].read_bytes()
    length = int.from_bytes(content[:8], "little")
    padded = length + (0x80 - length) % 256
    header = content[8 : 8 + length].ljust(padded)
    path = tmp_path / "padded"
    path.write_bytes(padded.to_bytes(8, "little") + header + content[8 + length :])
    assert path.read_bytes()[0] == 0x80
    loaded = load_checkpoint(path, CONFIG)
    np.testing.assert_array_equal(loaded["text.head.bias"], parameters["text.head.bias"])


def test_an_image_tower_has_no_text_tower_and_says_what_to_do(files):
    with pytest.raises(UserError) as error:
        load_checkpoint(files["timm"], CONFIG)
    assert str(error.value).startswith(f"{files['timm']} has no text tower")
    assert "model.towers=image" in str(error.value)


def test_all_formats_give_the_same_vectors(files):
    """Of images from an image tower alone too, without any array of the other tower."""
    rng = np.random.default_rng(2)
    patches = rng.uniform(-1, 1, (2, 36, 768)).astype(np.float32)
    grid = np.asarray([(6, 6), (4, 9)], np.int32)
    tokenizer = Tokenizer(b"unused", seeded.TEXT_LENGTH)
    model = tower_model("small", CONFIG, {}, tokenizer, 144, "float32", {})
    images, texts = jax.jit(model.embed_images), jax.jit(model.embed_texts)
    loaded = {name: load_checkpoint(files[name], CONFIG) for name in ("big_vision", "open_clip")}
    loaded["timm"] = load_checkpoint(files["timm"], CONFIG, "image")
    vectors = {name: images(values, patches, grid) for name, values in loaded.items()}
    assert np.abs(vectors["timm"][0] - vectors["timm"][1]).max() > 0.1
    for name in ("open_clip", "timm"):
        np.testing.assert_array_equal(vectors[name], vectors["big_vision"])
    ours = texts(loaded["open_clip"], seeded.tokens())
    np.testing.assert_array_equal(ours, texts(loaded["big_vision"], seeded.tokens()))


@pytest.mark.parametrize("towers", ["both", "image"])
def test_names_of_another_library_are_shown(tmp_path, towers):
    names = ("vision_model.embeddings.position_embedding.weight", "text_model.head.bias")
    path = tmp_path / "model.safetensors"
    safetensors.numpy.save_file({name: np.zeros(3, np.float32) for name in names}, path)
    with pytest.raises(UserError) as error:
        load_checkpoint(path, CONFIG, towers)
    message = f"{path} has names of no known model ({names[1]}, {names[0]}, ...); they should"
    assert str(error.value).startswith(message)


def _torch_zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}q\x00.")
        archive.writestr("archive/data/0", b"\0" * 8)
    return buffer.getvalue()


BAD = {
    "no tensors": (_torch_zip(), "holds no tensor"),
    "no tensors, old": (pickle.dumps({"a": 1}, protocol=2), "is damaged or no file of torch.save"),
    "empty": (b"", "is no file of weights, or only a part of one; read are an npz"),
    "text": (b"<html>404 Not Found</html>", "is a web page, not the file of weights"),
    "pointer": (b"version https://git-lfs.github.com/spec/v1\n", "is a pointer of git-lfs"),
    "cut npz": (b"PK\x03\x04" + bytes(30), "is no npz of arrays nor a PyTorch file"),
    "cut safetensors": ((99).to_bytes(8, "little") + b'{"a"', "is no safetensors checkpoint, or"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_file_of_another_kind_is_refused_by_name(tmp_path, kind):
    content, message = BAD[kind]
    path = tmp_path / "weights.npz"
    path.write_bytes(content)
    with pytest.raises(UserError, match=re.escape(f"{path} {message}")):
        load_checkpoint(path, CONFIG)
