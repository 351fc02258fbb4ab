"""Weights of every format, told by their first bytes whatever their name, as flat arrays."""

import gzip
import io
import json
import os
import pathlib
import pickle
import re
import zipfile

import jax.numpy as jnp
import ml_dtypes
import msgpack
import numpy as np
import pytest
import safetensors.numpy
from etils import epath
from flax import serialization
from flax.training import train_state

from ilias_jax.errors import UserError
from ilias_jax.models.checkpoints.formats import read_arrays, read_safetensors_header
from ilias_jax.models.parameters import as_float32

FILES = pathlib.Path(__file__).parents[2] / "data" / "torch_files"
KERNEL = np.arange(12, dtype=np.float32).reshape(3, 4) - 5
BRAIN = np.asarray([1.5, -2.0, 0.25], ml_dtypes.bfloat16)
FLAT = {"block/kernel": KERNEL, "block/bias": BRAIN, "steps": np.asarray(3, np.int64)}


def packed(value: object) -> bytes:
    return serialization.msgpack_serialize(value)


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def _claims(shape: str) -> bytes:
    """An npz whose array says that it is of this shape."""
    old, new = (f"{each}, }}".ljust(40).encode() for each in ("(3, 4)", shape))
    return _zip(**{"a.npy": _npy(KERNEL).replace(old, new)})


def npz(**arrays: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def read(tmp_path: pathlib.Path, content: bytes):
    path = tmp_path / "weights"  # a name that tells nothing
    path.write_bytes(content)
    return read_arrays(path)


def error_of(tmp_path: pathlib.Path, content: bytes) -> str:
    with pytest.raises(UserError) as error:
        read(tmp_path, content)
    return str(error.value)


def check_flat(arrays: dict[str, np.ndarray]) -> None:
    assert arrays.keys() == FLAT.keys()
    for key, value in FLAT.items():
        assert arrays[key].shape == value.shape
        np.testing.assert_array_equal(as_float32(arrays[key]), value.astype(np.float32))


def test_a_safetensors_file(tmp_path):
    found = read(tmp_path, safetensors.numpy.save(FLAT))
    assert found.format == "safetensors"
    check_flat(found.arrays)


TYPES = {
    "matrix": np.arange(6, dtype=np.float32).reshape(2, 3),
    "half": np.asarray([1.5, -2.0], np.float16),
    "brain": np.asarray([[1.5], [-2.0]], ml_dtypes.bfloat16),
    "number": np.asarray(3.0, np.float32),
    "double": np.linspace(0, 1, 5),
    "nothing": np.zeros((0, 4), np.float32),
    "num_batches_tracked": np.asarray(2**40, np.int64),
    "mask": np.asarray([[True], [False]]),
    **{f"int{bits}": np.asarray([-3, 5], f"int{bits}") for bits in (8, 16, 32)},
    **{f"uint{bits}": np.asarray([3, 250], f"uint{bits}") for bits in (8, 16, 32, 64)},
}


def tensors_with(header: object, data: bytes = b"") -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def test_every_type_and_shape_of_the_safetensors_package(tmp_path):
    """As views of the file: a model of gigabytes is not in memory twice."""
    found = read(tmp_path, safetensors.numpy.save(TYPES, {"format": "pt"})).arrays
    assert found.keys() == TYPES.keys()
    for key, value in TYPES.items():
        assert (found[key].dtype, found[key].shape) == (value.dtype, value.shape)
        np.testing.assert_array_equal(found[key], value)
    base = found["matrix"]
    while base.base is not None and not isinstance(base, np.memmap):
        base = base.base
    assert isinstance(base, np.memmap)
    assert not found["matrix"].flags.writeable


def test_the_header_says_where_the_tensors_lie(tmp_path):
    path = epath.Path(tmp_path / "weights")
    path.write_bytes(safetensors.numpy.save(TYPES, {"format": "pt"}))
    (metadata, tensors), content = read_safetensors_header(path), path.read_bytes()
    assert metadata == {"format": "pt"} and tensors.keys() == TYPES.keys()
    for key, value in TYPES.items():
        stored = tensors[key]
        assert (stored.dtype, stored.shape) == (value.dtype, value.shape)
        assert content[stored.first : stored.end] == value.tobytes()
    path.write_bytes(safetensors.numpy.save(TYPES))
    assert read_safetensors_header(path)[0] == {}


def test_an_npz(tmp_path):
    """numpy gives bfloat16 back as two-byte void."""
    found = read(tmp_path, npz(**FLAT))
    assert found.format == "npz"
    assert found.arrays["block/bias"].dtype == np.dtype("V2")
    check_flat(found.arrays)


@pytest.mark.parametrize("name", ["checkpoint.pth", "checkpoint_stream.pth"])
def test_a_torch_checkpoint_of_either_form(name):
    found = read_arrays(FILES / name)
    assert found.format == "torch"
    assert "state_dict.module.encoder.layer.weight" in found.arrays
    assert "optimizer.state.1.exp_avg_sq" in found.arrays


def test_a_flax_checkpoint_is_flattened(tmp_path):
    state = {"block": {"kernel": KERNEL, "bias": jnp.asarray(BRAIN)}, "steps": FLAT["steps"]}
    found = read(tmp_path, packed(state))
    assert found.format == "msgpack"
    assert found.arrays["block/bias"].dtype == ml_dtypes.bfloat16
    check_flat(found.arrays)


def test_what_is_no_array_is_left_out_of_a_flax_checkpoint(tmp_path):
    """A train state has a step, an empty dictionary, nothing, a text and numpy's scalars."""
    state = {"global_step": 3, "model_state": {}, "metadata": None, "params": {"a": {"b": KERNEL}}}
    state |= {"name": "x", "rate": np.float32(0.5), "done": False}
    assert list(read(tmp_path, packed(state)).arrays) == ["params/a/b"]


def test_a_train_state_of_flax(tmp_path):
    """As its training loops write it, with the state of the optimizer."""
    import optax

    params = {"resblocks.0": {"kernel": jnp.asarray(KERNEL)}}
    state = train_state.TrainState.create(apply_fn=None, params=params, tx=optax.adam(0.1))
    arrays = read(tmp_path, serialization.to_bytes(state)).arrays
    np.testing.assert_array_equal(arrays["params/resblocks.0/kernel"], KERNEL)
    assert "opt_state/0/mu/resblocks.0/kernel" in arrays


@pytest.mark.parametrize("count", [1, 15, 16, 300, 70_000])
def test_maps_of_every_size_are_recognized(tmp_path, count):
    """Their first bytes differ."""
    state = {f"key{number}": number for number in range(count - 1)} | {"last": KERNEL}
    found = read(tmp_path, packed(state))
    assert found.format == "msgpack" and list(found.arrays) == ["last"]


def test_arrays_that_flax_wrote_in_pieces_are_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(serialization, "MAX_CHUNK_SIZE", 16)
    content = packed({"a": {"kernel": KERNEL}, "b": KERNEL.T, "small": KERNEL[0, :2]})
    assert content.count(b"__msgpack_chunked_array__") == 2
    arrays = read(tmp_path, content).arrays
    np.testing.assert_array_equal(arrays["a/kernel"], KERNEL)
    np.testing.assert_array_equal(arrays["b"], KERNEL.T)


def _zip(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


MAP = packed({"params": {"kernel": KERNEL}})
TENSORS = safetensors.numpy.save(FLAT)
BAD = {
    "nothing": (b"", "is no file of weights, or only a part of one; read are an npz"),
    "a page": (b"<html>404 Not Found</html>", "is a web page, not the file of weights behind it"),
    "a pointer": (
        b"version https://git-lfs.github.com/spec/v1\n",
        "is a pointer of git-lfs; get the file itself with `git lfs pull`",
    ),
    "compressed": (gzip.compress(b"x"), "is compressed with gzip; unpack it"),
    "another library's": (b"\x89HDF\r\n\x1a\n", "is HDF5, as Keras writes"),
    "a tar": (bytes(257) + b"ustar", "is a tar archive; unpack it"),
    "a lone byte": (b"\x81", "is no file of weights"),
    "a map of numbers": (b"\x81\x01\x02", "is no file of weights"),
    "an array": (b"\x93\xa1a\xa1b\xa1c", "is no file of weights"),
    "a cut npz": (npz(**FLAT)[:-9], "is no npz of arrays nor a PyTorch file, or only a part"),
    "a cut torch file": (
        (FILES / "checkpoint.pth").read_bytes()[:-99],
        "no file of torch.save: File is not a zip file, as when a download stopped; download",
    ),
    "a claim of 75 GB": (
        _zip(**{"a.npy": _npy(KERNEL).replace(b"(3, 4), }         ", b"(3, 6400000000), }")}),
        r"a.npy claims to be float32 \(3, 6400000000\), and has 176 bytes",
    ),
    "a cut torch file of another order": (
        _zip(**{"x/data/0": bytes(64), "x/data.pkl": b""})[:90],
        "no file of torch.save: File is not a zip file, as when a download stopped; download",
    ),
    "a cut stream": (
        (FILES / "checkpoint_stream.pth").read_bytes()[:-9],
        "no file of torch.save: it ends too early, as when a download stopped; download it again",
    ),
    "a stream cut in its pickles": (
        (FILES / "checkpoint_stream.pth").read_bytes()[:200],
        "EOFError: it ends too early, as when a download stopped",
    ),
    "a long pickle": (
        _zip(**{"x/data.pkl": bytes(2**24 + 1)}),
        "data.pkl claims 16,777,217 bytes, at most 16,777,216 fit",
    ),
    "a shape of no memory": (_claims("(0, 99999999999999999999)"), "is no npz of arrays nor"),
    "a sum for a shape": (_claims("(3, 2**4)"), r"\(a.npy has no header of npy\)$"),
    "a long name": (_zip(**{"x" * 60_000: b""}), "is a zip archive of .'x{190}"),
    "a long key": (packed({"k" * 10**6: 3}), "k is too long"),
    "a long dtype": (
        b"\x81\xa1a" + msgpack.packb(msgpack.ExtType(1, msgpack.packb(([1], "z" * 10**6, b"")))),
        "is no checkpoint of flax",
    ),
    "a name times a thousand": (packed({"k" * 10**5: {str(i): i for i in range(999)}}), "too long"),
    "a pickled npz": (npz(a=np.asarray([{}], object)), "is no npz of arrays"),
    "another zip": (_zip(page=b"hello"), r"is a zip archive of \['page'\], no npz"),
    "an empty zip": (_zip(), r"is a zip archive of \[\], no npz"),
    "cut tensors": (TENSORS[:-1], "is no safetensors checkpoint"),
    "a pickle": (pickle.dumps({"a": 1}, 2), "is damaged or no file of torch.save"),
    "a map of no array": (packed({"step": 3}), "holds no array, only 'step'"),
    "a map and more": (MAP + b"x", "is no checkpoint of flax, or only a part of one"),
    "two arrays of one name": (packed({"a": {"b": KERNEL}, "a/b": KERNEL}), "of the name a/b"),
    "a deep map": (b"\x81\xa1a" * 1010 + b"\x01", "is no checkpoint of flax"),
    "a very deep map": (b"\x81\xa1a" * 99_999 + b"\x01", "is no checkpoint of flax"),
    "a length that no memory holds": (b"\x81\xa1a\xc9\xff\xff\xff\xff\x01x", "is no checkpoint of"),
    "an array of objects": (MAP.replace(b"\xa7float32", b"\xa7objects"), "is no checkpoint of"),
    "another shape": (MAP.replace(b"\x92\x03\x04", b"\x92\x05\x04"), "is no checkpoint of flax"),
}


ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
BAD_TENSORS = {
    "cut in the header": TENSORS[:40],
    "no JSON": b"\x02\0\0\0\0\0\0\0{]",
    "a deep header": (2 * 10**5).to_bytes(8, "little") + b'{"a":' + b"[" * (2 * 10**5 - 5),
    "complex numbers": tensors_with({"a": {**ENTRY, "dtype": "C64"}}, bytes(16)),
    "integers of another size": tensors_with({"a": {**ENTRY, "dtype": "I64"}}, bytes(8)),
    "another size": tensors_with({"a": {**ENTRY, "shape": [3]}}, bytes(8)),
    "a negative shape": tensors_with({"a": {**ENTRY, "shape": [-1, -2]}}, bytes(8)),
    "half a row": tensors_with({"a": {**ENTRY, "shape": [0.5, 4]}}, bytes(8)),
    "a shape of no memory": tensors_with(
        {"a": {**ENTRY, "shape": [0, *[2**40] * 4], "data_offsets": [0, 0]}}, bytes(8)
    ),
    "beyond the end": tensors_with({"a": {**ENTRY, "data_offsets": [8, 16]}}, bytes(8)),
    "before the start": tensors_with({"a": {**ENTRY, "data_offsets": [-8, 0]}}, bytes(8)),
    "offsets of no integers": tensors_with({"a": {**ENTRY, "data_offsets": [0.0, 8.0]}}, bytes(8)),
    "no offsets": tensors_with({"a": {"dtype": "F32", "shape": [2]}}, bytes(8)),
    "no entry": tensors_with({"a": 3}, bytes(8)),
    "a long dtype": tensors_with({"a": {**ENTRY, "dtype": "F" * 10**6}}, bytes(8)),
    "a long shape": tensors_with({"a": {**ENTRY, "shape": [10**9] * 10**5}}, bytes(8)),
    "a long size": tensors_with({"a": {**ENTRY, "shape": ["x" * 10**6]}}, bytes(8)),
    "a long key": tensors_with({"a": {**ENTRY, "k" * 10**6: 1}}, bytes(8)),
}


@pytest.mark.parametrize("kind", BAD_TENSORS)
def test_safetensors_that_are_none_are_named(tmp_path, kind):
    start = f"{tmp_path / 'weights'} is no safetensors checkpoint"
    found = error_of(tmp_path, BAD_TENSORS[kind])
    assert found.startswith(start) and len(found) < len(start) + 300


@pytest.mark.parametrize("kind", BAD)
def test_what_cannot_be_read_is_named(tmp_path, kind):
    content, message = BAD[kind]
    found = error_of(tmp_path, content)
    assert found.startswith(str(tmp_path / "weights")) and re.search(message, found), found
    assert len(found) < 1500


def test_what_unpacks_to_a_hundred_times_its_size_is_not_unpacked(tmp_path):
    buffer = io.BytesIO()
    np.savez_compressed(buffer, a=np.zeros(20_000_000, np.float32))
    message = "unpacks to 80,000,128 bytes; no file of numbers is packed so tightly"
    assert message in error_of(tmp_path, buffer.getvalue())


def test_a_checkpoint_cut_anywhere_is_named(tmp_path):
    for length in range(0, len(MAP), 3):
        assert re.search("is no checkpoint of flax|is no file of", error_of(tmp_path, MAP[:length]))


def test_a_flipped_byte_never_escapes_as_another_error(tmp_path):
    refused = 0
    for place in range(len(MAP)):
        content = bytearray(MAP)
        content[place] ^= (0xFF, 0x01, 0x10, 0x80)[place % 4]
        try:
            read(tmp_path, bytes(content))
        except UserError:
            refused += 1
    assert refused > 25


def test_what_is_no_file_is_not_read(tmp_path):
    os.mkfifo(tmp_path / "weights")
    for path in (tmp_path / "weights", "/dev/zero"):  # reading either never ends
        with pytest.raises(UserError, match="is no file; a file of known size"):
            read_arrays(path)


def test_a_path_without_a_file_is_named(tmp_path):
    for path in (tmp_path, tmp_path / "none.npz"):
        with pytest.raises(
            UserError, match=re.escape(f"{path}: no such file of weights; read are")
        ):
            read_arrays(path)
