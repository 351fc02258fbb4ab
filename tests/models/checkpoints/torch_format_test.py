"""PyTorch's files, read against values known by construction; hostile and damaged ones refused."""

import mmap
import pathlib
import pickle
import re
import struct
import zipfile

import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from flipped_bytes import count_refused

from ilias_jax.errors import UserError
from ilias_jax.models.checkpoints.torch_format import read_tensors

FILES = pathlib.Path(__file__).parents[2] / "data" / "torch_files"
WEIGHT = np.arange(15, dtype=np.float32).reshape(3, 5) - 7
BIAS = np.array([0.5, -1, 2], np.float32)
FLAT = ["adapter", "adapter_stream", "protocol4", "types", "types_stream"]
NESTED = ["checkpoint", "checkpoint_stream", "checkpoint_protocol4"]


def _flat(path: pathlib.Path) -> dict[str, np.ndarray]:
    return read_tensors(epath.Path(path))


def _nested(path: pathlib.Path) -> dict[str, np.ndarray]:
    return read_tensors(epath.Path(path), flat=False)


def _error(path: pathlib.Path, read=_nested) -> str:
    with pytest.raises(UserError) as error:
        read(path)
    return str(error.value)


@pytest.mark.parametrize("name", ["adapter", "adapter_stream", "protocol4"])
def test_a_state_dict_of_every_form(name):
    tensors = _flat(FILES / f"{name}.pth")
    assert list(tensors) == ["layer.weight", "layer.bias"]
    for found, expected in zip(tensors.values(), (WEIGHT, BIAS), strict=True):
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("name", ["types", "types_stream"])
def test_every_element_type_view_and_shape(name):
    tensors = _flat(FILES / f"{name}.pth")
    values = np.arange(6).reshape(2, 3) - 2
    for dtype in ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8"):
        assert tensors[dtype].dtype == jnp.dtype(dtype)
        np.testing.assert_array_equal(tensors[dtype].astype(np.float64), values)
    np.testing.assert_array_equal(tensors["uint8"], np.abs(values).astype(np.uint8))
    np.testing.assert_array_equal(tensors["bool"], values > 0)
    base = np.arange(24, dtype=np.float32)
    np.testing.assert_array_equal(tensors["shared"], base)
    np.testing.assert_array_equal(tensors["transposed"], base.reshape(4, 6).T)
    np.testing.assert_array_equal(tensors["slice"], base.reshape(4, 6)[1:3, 1::2])
    assert tensors["scalar"].shape == () and tensors["scalar"] == 3.5
    assert tensors["empty"].shape == (0, 4)
    assert np.shares_memory(tensors["shared"], tensors["slice"])
    assert not tensors["shared"].flags.writeable


@pytest.mark.parametrize("name", NESTED)
def test_the_tensors_of_a_training_state_by_joined_names(name):
    """Beside them are an epoch, options, a schedule, numpy's numbers and arrays, lists, sets."""
    arrays = _nested(FILES / f"{name}.pth")
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


@pytest.mark.parametrize("name", FLAT)
def test_a_flat_file_is_read_alike_by_both_readers(name):
    flat, nested = _flat(FILES / f"{name}.pth"), _nested(FILES / f"{name}.pth")
    assert list(flat) == list(nested)
    for key, value in flat.items():
        assert nested[key].dtype == value.dtype and nested[key].shape == value.shape
        np.testing.assert_array_equal(nested[key], value)
        assert not nested[key].flags.writeable


@pytest.mark.parametrize("name", NESTED)
def test_nested_arrays_are_views_of_the_mapped_file(name):
    """An optimizer's state is twice the size of the weights and is never looked at."""
    for array in _nested(FILES / f"{name}.pth").values():
        base = array
        while isinstance(base, np.ndarray):
            base = base.base
        assert isinstance(base, mmap.mmap)


def test_the_flat_reader_takes_tensors_alone():
    for name in NESTED:
        assert "not a tensor; save the state_dict() of" in _error(FILES / f"{name}.pth", _flat)
    message = _error(FILES / "nested.pth", _flat)
    assert "nested.pth: 'state_dict' is a dict, not a tensor; save the state_dict" in message


@pytest.mark.parametrize("read", [_flat, _nested])
def test_hostile_objects_are_refused_by_name_and_not_called(read, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("hostile", "hostile_stream", "hostile_checkpoint", "hostile_checkpoint_stream"):
        message = _error(FILES / f"{name}.pth", read)
        assert f"{name}.pth: refused: it holds the name 'posix.mkdir', and only dict" in message
    assert not list(tmp_path.iterdir())  # what they would have made
    module = _error(FILES / "module.pth", read)
    assert "refused: it holds the name '__main__.LinearAdapter', and only" in module
    assert "save the state_dict() of the module alone" in module


@pytest.mark.parametrize("read", [_flat, _nested])
def test_a_torchscript_archive_says_what_to_give_instead(read):
    message = _error(FILES / "script.pt", read)
    assert message.startswith(f"{FILES / 'script.pt'} is a TorchScript archive, a program")
    assert ".safetensors file, such as open_clip's on huggingface.co" in message


def test_a_view_that_repeats_its_elements_is_refused():
    assert "a repeats its 1 elements to 1,000,000" in _error(FILES / "expanded.pth", _flat)


@pytest.mark.parametrize("name", [*FLAT, *NESTED])
def test_a_file_cut_anywhere_is_named(name, tmp_path):
    data = (FILES / f"{name}.pth").read_bytes()
    path, read = tmp_path / "cut.pth", _flat if name in FLAT else _nested
    for length in range(0, len(data) - 1, 211):
        path.write_bytes(data[:length])
        assert f"{path} is damaged or no file of torch.save" in _error(path, read)


@pytest.mark.parametrize("name", ["adapter", "adapter_stream", *NESTED])
def test_a_flipped_byte_never_escapes_as_another_error(name, tmp_path):
    content = (FILES / f"{name}.pth").read_bytes()
    read, step = (_flat, 3) if name in FLAT else (_nested, 11)
    assert count_refused(content, tmp_path, read, step) > 60


def test_the_flat_reader_compares_checksums(tmp_path):
    data = (FILES / "adapter.pth").read_bytes()
    damaged = WEIGHT + np.float32(1)
    (tmp_path / "a.pth").write_bytes(data.replace(WEIGHT.tobytes(), damaged.tobytes()))
    assert "Bad CRC-32 for file" in _error(tmp_path / "a.pth", _flat)


def test_other_files_are_named(tmp_path):
    path = tmp_path / "x.pth"
    for read in (_flat, _nested):
        assert _error(tmp_path / "none", read) == f"{tmp_path / 'none'}: no such file"
        assert _error(tmp_path, read) == f"{tmp_path}: no such file"
        for content in (b"", b"PK", b"PK\x03\x04", b"hello, no tensor here", pickle.dumps([1])):
            path.write_bytes(content)
            assert f"{path} is damaged or no file of torch.save" in _error(path, read)


def _text(word: str) -> bytes:
    return b"X" + struct.pack("<I", len(word)) + word.encode()


def _number(value: int) -> bytes:
    return b"\x8a\x09" + value.to_bytes(9, "little", signed=True)


def _numbers(values) -> bytes:
    return b"(" + b"".join(map(_number, values)) + b"t"


class _Archive:
    """A zip in torch's layout with one float32 tensor, and a word in everything."""

    def __init__(self, **changes) -> None:
        self.data = np.arange(6, dtype="<f4").tobytes()
        self.storage, self.key, self.count = "FloatStorage", "0", 6
        self.offset, self.shape, self.strides = 0, (2, 3), (3, 1)
        self.order: bytes | None = b"little"
        self.compression = zipfile.ZIP_STORED
        self.pickled: bytes | None = None
        self.extra: dict[str, bytes] = {}
        for name, value in changes.items():
            assert hasattr(self, name)
            setattr(self, name, value)

    def tensor(self) -> bytes:
        """The operations that torch.save writes."""
        storage = b"(" + _text("storage") + f"ctorch\n{self.storage}\n".encode() + _text(self.key)
        storage += _text("cpu") + _number(self.count) + b"tQ"
        call = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + _number(self.offset)
        return call + _numbers(self.shape) + _numbers(self.strides) + b"\x89N" + b"tR"

    def write(self, path: pathlib.Path) -> pathlib.Path:
        pickled = b"}" + _text("a") + self.tensor() + b"s" if self.pickled is None else self.pickled
        with zipfile.ZipFile(path, "w", self.compression) as archive:
            archive.writestr("x/data.pkl", b"\x80\x04" + pickled + b".")
            if self.order is not None:
                archive.writestr("x/byteorder", self.order)
            archive.writestr("x/data/0", self.data)
            for name, content in self.extra.items():
                archive.writestr(name, content)
        return path


@pytest.mark.parametrize("read", [_flat, _nested])
def test_byte_orders(read, tmp_path):
    expected = np.arange(6, dtype=np.float32).reshape(2, 3)
    for order in (b"little", None):
        found = read(_Archive(order=order).write(tmp_path / f"{order}"))["a"]
        np.testing.assert_array_equal(found, expected)
    big = _Archive(order=b"big", data=np.arange(6, dtype=">f4").tobytes())
    np.testing.assert_array_equal(read(big.write(tmp_path / "big"))["a"], expected)
    message = _error(_Archive(order=b"middle").write(tmp_path / "middle"), read)
    assert "its byte order is 'middle'" in message


TENSOR = _Archive().tensor()
LIES = [
    ({"offset": 1}, "a reaches beyond its storage of 6 elements"),
    ({"strides": (4, 1)}, "a reaches beyond its storage"),
    ({"strides": (2**31 - 1, 1)}, "a reaches beyond its storage"),
    # 4 bytes x 2^62 elements of stride are 2^64, in 64 bits nothing.
    ({"strides": (2**62, 1)}, "a reaches beyond its storage"),
    ({"strides": (0, 0), "shape": (2**31 - 1, 2**31 - 1)}, "a repeats its 6 elements to"),
    ({"offset": -1}, "a tensor has no proper shape"),
    ({"shape": (-2, 3)}, "a tensor has no proper shape"),
    ({"shape": (2, 3, 1)}, "a tensor has no proper shape"),
    ({"shape": (1,) * 40, "strides": (1,) * 40}, "a has 40 dimensions"),
    ({"shape": (0,) + (2**31 - 1,) * 4, "strides": (1,) * 5}, "is damaged .*too big"),
    ({"shape": (0, 2**70), "strides": (1, 1)}, "is damaged"),
    ({"count": 5}, "data/0 claims 24 bytes, at most 20 fit"),
    ({"count": 7}, "data/0 has 24 bytes, not 28"),
    ({"count": -6}, "refused: it holds a storage of a kind that is not known"),
    ({"key": "1"}, "it has no data/1"),
    ({"key": "../../etc/passwd"}, "it has no data/../../etc/passwd"),
    ({"storage": "Tensor"}, "refused: it holds the name 'torch.Tensor'"),
    ({"storage": "nn.Linear"}, "refused: it holds the name 'torch.nn.Linear'"),
    ({"storage": "Size"}, "refused: it holds a storage of a kind that is not known"),
    ({"extra": {"y/data.pkl": b"N."}}, "it must hold one data.pkl"),
    ({"compression": zipfile.ZIP_DEFLATED}, "refused: data.pkl is compressed"),
    ({"pickled": b"N"}, "holds a NoneType, not a dictionary of tensors"),
    ({"pickled": b"}K\x01N s"}, "is damaged"),
    ({"pickled": b"}"}, r"holds no tensor, only \{\}"),
    ({"pickled": b""}, "is damaged"),
    ({"pickled": b"h\x07"}, "is damaged"),
    ({"pickled": b"}}Ns"}, "refused: it holds a dict key that is a dict"),
    ({"pickled": b"}r\xff\xff\xff\xff"}, r"holds no tensor, only \{\}"),
    ({"pickled": b"}" + _text("a") + b"]Q"}, "refused: it holds a storage of a kind"),
    ({"pickled": b"cos\nsystem\n" + _text("ls") + b"\x85R"}, "holds the name 'os.system'"),
    ({"pickled": b"cargparse\nArgumentParser\n)\x81"}, "the name 'argparse.ArgumentParser'"),
    ({"pickled": b"ctorch\nload\n"}, "refused: it holds the name 'torch.load'"),
    ({"pickled": b"cnumpy\nfromfile\n"}, "refused: it holds the name 'numpy.fromfile'"),
    ({"pickled": b"cnumpy\nload\n"}, "refused: it holds the name 'numpy.load'"),
    ({"pickled": b"cpathlib\nPath.touch\n"}, "refused: it holds the name 'pathlib.Path.touch'"),
    (
        {"pickled": _text("pathlib") + _text("Path.touch") + b"\x93"},
        "the name 'pathlib.Path.touch'",
    ),
    ({"pickled": b"cbuiltins\ngetattr\n"}, "refused: it holds the name 'builtins.getattr'"),
    ({"pickled": b"c__builtin__\neval\n"}, "refused: it holds the name '__builtin__.eval'"),
    ({"pickled": b"(ios\nsystem\n"}, "refused: it holds the operation INST"),
    ({"pickled": b"(cargparse\nNamespace\no"}, "refused: it holds the operation OBJ"),
    ({"pickled": b"\x82\x01"}, "refused: it holds the operation EXT1"),
    ({"pickled": b"Pfile\n"}, "refused: it holds the operation PERSID"),
    # What a harmless call gives cannot be called, and nothing of it can be set.
    ({"pickled": b"cargparse\nNamespace\n)\x81}b"}, "holds a object, not a dictionary"),
    ({"pickled": b"cargparse\nNamespace\n)R)R"}, "object is not callable"),
    ({"pickled": b"cargparse\nNamespace\n)R)\x81"}, "object is not callable"),
    ({"pickled": b"ctorch\nFloatStorage\n)R"}, "object is not callable"),
    ({"pickled": b"ctorch._utils\n_rebuild_parameter\nN\x85R"}, "a parameter has no tensor"),
    ({"pickled": b"ctorch._utils\n_rebuild_parameter\n)R"}, "is damaged"),
    ({"pickled": b"ccollections\nOrderedDict\n(]tR"}, "is damaged"),  # items would be lost
    ({"pickled": b"}q\x00" + _text("a") + b"h\x00s"}, "more than 32 deep|a dict, not a tensor"),
]


@pytest.mark.parametrize("read", [_flat, _nested])
def test_archives_that_lie_are_refused(read, tmp_path):
    for number, (changes, message) in enumerate(LIES):
        path = _Archive(**changes).write(tmp_path / f"{number}.pth")
        found = _error(path, read)
        assert found.startswith(str(path)) and re.search(message, found), (changes, found)


def test_deep_pickles_do_not_overflow(tmp_path):
    """The hash of a deep tuple would end the process."""
    tuples, lists = b")" + b"\x85" * 200_000, b"]" * 200_000 + b"a" * 199_999
    for pickled, message in (
        (b"}" + tuples + b"Ns", "refused: it holds a dict key that is a tuple"),
        (b"\x8f(" + tuples + b"\x90", "holds a list, not a dictionary"),  # a set
        (lists, "holds a list, not a dictionary"),
        (b"}" + _text("a") + lists + b"s", "holds no tensor, only 'a'"),
    ):
        assert message in _error(_Archive(pickled=pickled).write(tmp_path / "a.pth"))


def test_two_tensors_of_one_name_are_refused(tmp_path):
    inner = b"}" + _text("b") + TENSOR + b"s"
    pickled = b"}(" + _text("a.b") + TENSOR + _text("a") + inner + b"u"
    assert "two values of the name a.b" in _error(_Archive(pickled=pickled).write(tmp_path / "a"))


def test_a_dictionary_in_very_many_places_is_refused(tmp_path):
    """Each of eight dictionaries holds the one before it ten times."""
    pickled = b"}" + _text("0") + b"}q\x00s"
    for number in range(1, 8):
        before = b"h" + bytes([number - 1])
        items = b"".join(_text(f"{key}") + before for key in range(10))
        pickled += _text(f"{number}") + b"}q" + bytes([number]) + b"(" + items + b"us"
    path = _Archive(pickled=pickled).write(tmp_path / "a.pth")
    assert path.stat().st_size < 2000
    assert "it holds more than 1,000,000 values" in _error(path)


def test_compressed_bombs_and_claimed_lengths_take_no_memory(tmp_path):
    bomb = _Archive(pickled=bytes(50_000_000), compression=zipfile.ZIP_DEFLATED)
    path = bomb.write(tmp_path / "bomb.pth")
    assert path.stat().st_size < 200_000
    assert "compressed or encrypted, which torch.save never does" in _error(path)
    lengths = (b"\x8e" + struct.pack("<Q", 2**62), b"\x96" + struct.pack("<Q", 2**60))
    for length in (*lengths, b"\x95" + struct.pack("<Q", 2**60)):
        assert "is damaged" in _error(_Archive(pickled=length).write(tmp_path / "a.pth"))
    # The zip's own directory says that a member has 4 GB.
    data = bytearray(_Archive().write(path).read_bytes())
    entry = data.rindex(b"PK\x01\x02")  # of data/0, the last in the directory
    data[entry + 20 : entry + 28] = struct.pack("<II", 0xFFFFFFF0, 0xFFFFFFF0)
    path.write_bytes(data)
    assert "data/0 claims 4,294,967,280 bytes" in _error(path)


def test_a_storage_is_not_where_the_directory_says(tmp_path):
    """The offsets of the directory are followed, so they are checked."""
    path = _Archive(extra={"x/zeros": bytes(100)}).write(tmp_path / "a.pth")
    data = bytearray(path.read_bytes())
    entry = data.rindex(b"PK\x01\x02", 0, data.rindex(b"x/data/0"))
    # Where the zeros lie is what looks like a header of no name but for its signature.
    for offset in (3, 2**31, data.index(bytes(100))):
        data[entry + 42 : entry + 46] = struct.pack("<I", offset)
        path.write_bytes(data)
        assert re.search("data/0 is not where|data/0 lies outside|is damaged", _error(path))


def _stream(*pickles: bytes, data: bytes = struct.pack("<Q", 6) + bytes(24)) -> bytes:
    magic, version = 0x1950A86A20F9469CFC6C, 1001
    machine = {"little_endian": True}
    start = b"".join(pickle.dumps(value, 2) for value in (magic, version, machine))
    return start + b"".join(b"\x80\x02" + each + b"." for each in pickles) + data


def test_streams_whose_storages_do_not_fit_are_refused(tmp_path):
    path, found = tmp_path / "a.pth", b"}" + _text("a") + TENSOR + b"s"
    other = _Archive(count=5, shape=(1, 1)).tensor()
    keys = b"]" + _text("0") + b"a"
    path.write_bytes(_stream(found, keys))
    assert _nested(path)["a"].shape == (2, 3)
    # Two storages of one key.
    two = b"}(" + _text("a") + TENSOR + _text("b") + other + b"u"
    turned = b"}(" + _text("a") + other + _text("b") + TENSOR + b"u"
    for content in (
        *(_stream(found, wrong) for wrong in (b"]", b"N", b"]K\x00a", b"]]a", keys + b"h\x00")),
        *(
            _stream(both, wrong)
            for both in (two, turned)
            for wrong in (keys, keys + _text("0") + b"a")
        ),
        _stream(found, keys, data=struct.pack("<Q", 5) + bytes(24)),
        _stream(found, keys, data=struct.pack("<Q", 6) + bytes(23)),
        _stream(found, keys).replace(b"\x88s", b"Ns"),  # of no byte order
        pickle.dumps(1, 2) + _stream(found, keys),
    ):
        path.write_bytes(content)
        assert f"{path} is damaged or no file of torch.save" in _error(path)
