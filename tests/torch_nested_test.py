"""Whole checkpoints of PyTorch: the tensors in their dictionaries, nothing else, and nothing run."""

import io
import mmap
import pathlib
import pickle
import re
import struct
import zipfile

import numpy as np
import pytest
from etils import epath
from flipped_bytes import count_refused

from ilias_jax.errors import UserError
from ilias_jax.torch_files import read_nested, read_tensors

FILES = pathlib.Path(__file__).parent / "data" / "torch_files"
WEIGHT = np.arange(15, dtype=np.float32).reshape(3, 5) - 7
BIAS = np.array([0.5, -1, 2], np.float32)
FORMS = ["checkpoint", "checkpoint_stream", "checkpoint_protocol4"]


def _read(path: pathlib.Path) -> dict[str, np.ndarray]:
    return read_nested(epath.Path(path))


def _error(path: pathlib.Path) -> str:
    with pytest.raises(UserError) as error:
        _read(path)
    return str(error.value)


@pytest.mark.parametrize("name", FORMS)
def test_the_tensors_of_a_training_state_by_joined_names(name):
    """Beside them are an epoch, options, a schedule, numpy's numbers and arrays, lists, sets."""
    arrays = _read(FILES / f"{name}.pth")
    moments = [
        f"optimizer.state.{number}.{name}"
        for number in (0, 1)
        for name in ("step", "exp_avg", "exp_avg_sq")
    ]
    weights = ["state_dict.module.encoder.layer.weight", "state_dict.module.encoder.layer.bias"]
    assert list(arrays) == [*weights, "head.counts.seen", "head.scale", *moments]
    np.testing.assert_array_equal(arrays[weights[0]], WEIGHT)
    np.testing.assert_array_equal(arrays[weights[1]], BIAS)
    assert arrays["head.counts.seen"].dtype == np.int64 and arrays["head.counts.seen"] == 7
    np.testing.assert_array_equal(arrays["head.scale"], np.ones(2, np.float32))
    assert arrays["optimizer.state.0.step"] == 1
    # The gradient was 1 everywhere, and Adam keeps a tenth of it.
    np.testing.assert_allclose(arrays["optimizer.state.0.exp_avg"], np.full((3, 5), 0.1), rtol=1e-6)


@pytest.mark.parametrize("name", ["adapter", "adapter_stream", "types", "types_stream"])
def test_a_flat_file_is_read_as_the_strict_reader_does(name):
    path = epath.Path(FILES / f"{name}.pth")
    strict, nested = read_tensors(path), read_nested(path)
    assert list(strict) == list(nested)
    for key, value in strict.items():
        assert nested[key].dtype == value.dtype and nested[key].shape == value.shape
        np.testing.assert_array_equal(nested[key], value)
        assert not nested[key].flags.writeable


@pytest.mark.parametrize("name", FORMS)
def test_the_strict_reader_takes_no_training_state(name):
    with pytest.raises(UserError, match="refused: it names|is a int, not a tensor"):
        read_tensors(epath.Path(FILES / f"{name}.pth"))


@pytest.mark.parametrize("name", FORMS)
def test_arrays_are_views_of_the_mapped_file(name):
    """An optimizer's state is twice the size of the weights and is never looked at."""
    for array in _read(FILES / f"{name}.pth").values():
        base = array
        while isinstance(base, np.ndarray):
            base = base.base
        assert isinstance(base, mmap.mmap)


@pytest.mark.parametrize("name", ["hostile_checkpoint", "hostile_checkpoint_stream", "hostile"])
def test_a_hostile_object_is_refused_by_name_and_not_called(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    message = _error(FILES / f"{name}.pth")
    assert f"{name}.pth: refused: it names posix.mkdir, and only dictionaries" in message
    assert not list(tmp_path.iterdir())  # what it would have made


def test_a_whole_module_is_refused():
    assert "refused: it names __main__.LinearAdapter" in _error(FILES / "module.pth")


@pytest.mark.parametrize("read", [read_nested, read_tensors])
def test_a_torchscript_archive_says_what_to_give_instead(read):
    with pytest.raises(UserError) as error:
        read(epath.Path(FILES / "script.pt"))
    message = str(error.value)
    assert message.startswith(f"{FILES / 'script.pt'} is a TorchScript archive, a program")
    assert ".safetensors file, such as open_clip's on huggingface.co" in message


def _text(word: str) -> bytes:
    return b"X" + struct.pack("<I", len(word)) + word.encode()


# {"a": {"b": tensor}} in operations of pickle, of a storage of two numbers.
TENSOR = (
    b"ctorch._utils\n_rebuild_tensor_v2\n((" + _text("storage") + b"ctorch\nFloatStorage\n"
    b"" + _text("0") + _text("cpu") + b"K\x02tQK\x00K\x02\x85K\x01\x85\x89NtR"
)
NESTED = b"}" + _text("a") + b"}" + _text("b") + TENSOR + b"ss"


def _archive(path: pathlib.Path, pickled: bytes, data: bytes = bytes(8)) -> pathlib.Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", b"\x80\x02" + pickled + b".")
        archive.writestr("x/data/0", data)
    return path


def test_the_archive_of_these_tests_is_one(tmp_path):
    data = np.array([3, 4], np.float32)
    arrays = _read(_archive(tmp_path / "a.pth", NESTED, data.tobytes()))
    assert list(arrays) == ["a.b"]
    np.testing.assert_array_equal(arrays["a.b"], data)


@pytest.mark.parametrize(
    ("pickled", "message"),
    [
        (b"N", "holds a NoneType, not a dictionary of tensors"),
        (b"}" + _text("epoch") + b"K\x03s", "holds no tensor, only 'epoch'"),
        (b"}", r"holds no tensor, only \{\}"),
        (b"}q\x00" + _text("a") + b"h\x00s", "more than 32 deep"),  # within itself
        (b"}" + _text("a.b") + TENSOR + b"s" + _text("a") + NESTED[7:-1] + b"s", "name a.b"),
        (b"cargparse\nNamespace\n)\x81}b", "holds a Opaque, not a dictionary"),
        (b"cargparse\nArgumentParser\n)\x81", "refused: it names argparse.ArgumentParser"),
        (b"ctorch\nload\n" + _text("x") + b"\x85R", "refused: it names torch.load"),
        (b"cnumpy\nfromfile\n" + _text("x") + b"\x85R", "refused: it names numpy.fromfile"),
        (b"cpathlib\nPath.touch\n", "refused: it names pathlib.Path.touch"),
        (b"c__builtin__\neval\n" + _text("1") + b"\x85R", "refused: it names __builtin__.eval"),
        (b"cbuiltins\ngetattr\n", "refused: it names builtins.getattr"),
        (b"ctorch._utils\n_rebuild_parameter\nN\x85R", "a parameter has no tensor"),
        (b"ctorch._utils\n_rebuild_parameter\n)R", "is damaged"),
        # The result of a harmless call is nothing that could be called.
        (b"cargparse\nNamespace\n)R)R", "refused: it names a call that makes no tensor"),
        (b"cargparse\nNamespace\n)R)\x81", "refused: it names an object that is no tensor"),
        (b"ccollections\nOrderedDict\n)\x81", "refused: it names an object that is no tensor"),
        (b"(icopy\ncopy\n", "refused: the operation INST makes no tensor"),
    ],
)
def test_what_a_pickle_may_not_hold_or_name(pickled, message, tmp_path):
    path = _archive(tmp_path / "a.pth", pickled)
    found = _error(path)
    assert found.startswith(str(path)) and re.search(message, found), found


def test_a_dictionary_in_very_many_places_is_refused(tmp_path):
    """Each of eight dictionaries holds the one before it ten times."""
    pickled = b"}" + _text("0") + b"}q\x00s"
    for number in range(1, 8):
        before = b"h" + bytes([number - 1])
        items = b"".join(_text(f"{key}") + before for key in range(10))
        pickled += _text(f"{number}") + b"}q" + bytes([number]) + b"(" + items + b"us"
    path = _archive(tmp_path / "a.pth", pickled)
    assert path.stat().st_size < 2000
    assert "it holds more than 1,000,000 values" in _error(path)


def test_a_storage_is_not_where_the_directory_says(tmp_path):
    """The offsets of the directory are followed, so they are checked."""
    path = _archive(tmp_path / "a.pth", NESTED)
    data = bytearray(path.read_bytes())
    entry = data.rindex(b"PK\x01\x02")  # of data/0, the last in the directory
    for offset in (3, 2**31):
        data[entry + 42 : entry + 46] = struct.pack("<I", offset)
        path.write_bytes(data)
        assert re.search("data/0 is not where|data/0 lies outside|is damaged", _error(path))


@pytest.mark.parametrize("name", FORMS)
def test_a_file_cut_anywhere_is_named(name, tmp_path):
    data = (FILES / f"{name}.pth").read_bytes()
    path = tmp_path / "cut.pth"
    for length in range(0, len(data) - 1, 101):
        path.write_bytes(data[:length])
        assert f"{path} is damaged or no file of torch.save" in _error(path)


@pytest.mark.parametrize("name", FORMS[:2])
def test_a_flipped_byte_never_escapes_as_another_error(name, tmp_path):
    content = (FILES / f"{name}.pth").read_bytes()
    assert count_refused(content, tmp_path, _read, 7) > 100


def test_other_pickles_are_named(tmp_path):
    path = tmp_path / "x.pth"
    for content in (b"", pickle.dumps({"a": 1}), io.BytesIO(b"PK\x03\x04").getvalue()):
        path.write_bytes(content)
        assert f"{path} is damaged or no file of torch.save" in _error(path)
