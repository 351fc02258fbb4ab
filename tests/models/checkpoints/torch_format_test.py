"""PyTorch's files, read against values known by construction; hostile and damaged ones refused."""

import io
import pathlib
import pickle
import struct
import zipfile

import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from flipped_bytes import count_refused

from ilias_jax.errors import UserError
from ilias_jax.torch_files import read_tensors

FILES = pathlib.Path(__file__).parent / "data" / "torch_files"
WEIGHT = np.arange(15, dtype=np.float32).reshape(3, 5) - 7
BIAS = np.array([0.5, -1, 2], np.float32)


def _read(path: pathlib.Path) -> dict[str, np.ndarray]:
    return read_tensors(epath.Path(path))


@pytest.mark.parametrize("name", ["adapter", "adapter_stream", "protocol4"])
def test_a_state_dict_of_every_form(name):
    tensors = _read(FILES / f"{name}.pth")
    assert list(tensors) == ["layer.weight", "layer.bias"]
    for found, expected in zip(tensors.values(), (WEIGHT, BIAS), strict=True):
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("name", ["types", "types_stream"])
def test_every_element_type_view_and_shape(name):
    tensors = _read(FILES / f"{name}.pth")
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


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hostile", r"hostile.pth: refused: it names posix.mkdir, and only dictionaries of tens"),
        ("hostile_stream", "hostile_stream.pth: refused: it names posix.mkdir"),
        ("module", "refused: it names __main__.LinearAdapter.* save the state_dict"),
        ("nested", "nested.pth: 'state_dict' is a dict, not a tensor; save the state_dict"),
        ("expanded", "a repeats its 1 elements to 1,000,000"),
    ],
)
def test_files_that_hold_or_ask_for_more_than_tensors(name, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        _read(FILES / f"{name}.pth")
    assert not list(tmp_path.iterdir())  # what the hostile file would have made


@pytest.mark.parametrize("name", ["adapter", "adapter_stream", "types", "types_stream"])
def test_a_file_cut_anywhere_is_named(name, tmp_path):
    data = (FILES / f"{name}.pth").read_bytes()
    path = tmp_path / "cut.pth"
    for length in range(0, len(data) - 1, 41):
        path.write_bytes(data[:length])
        with pytest.raises(UserError, match=f"{path} is damaged or no file of torch.save"):
            _read(path)


@pytest.mark.parametrize("name", ["adapter", "adapter_stream", "protocol4", "types_stream"])
def test_a_flipped_byte_never_escapes_as_another_error(name, tmp_path):
    content = (FILES / f"{name}.pth").read_bytes()
    assert count_refused(content, tmp_path, _read, 2) > 100


def test_other_files_are_named(tmp_path):
    path = tmp_path / "x.pth"
    with pytest.raises(UserError, match=f"{path}: no such file"):
        _read(path)
    with pytest.raises(UserError, match=f"{tmp_path}: no such file"):
        _read(tmp_path)
    for content in (b"", b"PK", b"PK\x03\x04", b"hello, no tensor here", pickle.dumps([1])):
        path.write_bytes(content)
        with pytest.raises(UserError, match=f"{path} is damaged or no file"):
            _read(path)


class _Archive:
    """A zip in torch's layout with one float32 tensor, and a word in everything."""

    def __init__(self) -> None:
        self.data = np.arange(6, dtype="<f4").tobytes()
        self.storage, self.key, self.count = "FloatStorage", "0", 6
        self.offset, self.shape, self.strides = 0, (2, 3), (3, 1)
        self.order: bytes | None = b"little"
        self.compression = zipfile.ZIP_STORED
        self.pickled: bytes | None = None
        self.extra: dict[str, bytes] = {}

    def _pickle(self) -> bytes:
        """{"a": tensor} by hand: the operations that torch.save writes."""

        def number(value: int) -> bytes:
            return b"J" + struct.pack("<i", value)

        def text(value: str) -> bytes:
            return b"X" + struct.pack("<I", len(value)) + value.encode()

        def numbers(values) -> bytes:
            return b"(" + b"".join(map(number, values)) + b"t"

        storage = b"(" + text("storage") + f"ctorch\n{self.storage}\n".encode() + text(self.key)
        storage += text("cpu") + number(self.count) + b"tQ"
        call = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + number(self.offset)
        call += numbers(self.shape) + numbers(self.strides) + b"\x89N" + b"tR"
        return b"\x80\x02}" + text("a") + call + b"s."

    def write(self, path: pathlib.Path) -> pathlib.Path:
        with zipfile.ZipFile(path, "w", self.compression) as archive:
            archive.writestr("x/data.pkl", self.pickled or self._pickle())
            if self.order is not None:
                archive.writestr("x/byteorder", self.order)
            archive.writestr("x/data/0", self.data)
            for name, content in self.extra.items():
                archive.writestr(name, content)
        return path


def test_byte_orders(tmp_path):
    archive = _Archive()
    expected = np.arange(6, dtype=np.float32).reshape(2, 3)
    for order in (b"little", None):
        archive.order = order
        np.testing.assert_array_equal(_read(archive.write(tmp_path / "a"))["a"], expected)
    archive.order, archive.data = b"big", np.arange(6, dtype=">f4").tobytes()
    np.testing.assert_array_equal(_read(archive.write(tmp_path / "a"))["a"], expected)
    archive.order = b"middle"
    with pytest.raises(UserError, match="its byte order is 'middle'"):
        _read(archive.write(tmp_path / "a"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"offset": 1}, "a reaches beyond its storage of 6 elements"),
        ({"strides": (4, 1)}, "a reaches beyond its storage"),
        ({"strides": (2**31 - 1, 1)}, "a reaches beyond its storage"),
        ({"strides": (0, 0), "shape": (2**31 - 1, 2**31 - 1)}, "a repeats its 6 elements to"),
        ({"offset": -1}, "a tensor has no proper shape"),
        ({"shape": (-2, 3)}, "a tensor has no proper shape"),
        ({"shape": (2, 3, 1)}, "a tensor has no proper shape"),
        ({"shape": (1,) * 40, "strides": (1,) * 40}, "a has 40 dimensions"),
        ({"shape": (0,) + (2**31 - 1,) * 4, "strides": (1,) * 5}, "a has an impossible shape"),
        ({"count": 5}, "data/0 claims 24 bytes, at most 20 fit"),
        ({"count": 7}, "data/0 has 24 bytes, not 28"),
        ({"count": -6}, "a storage has no key or no length"),
        ({"key": "1"}, "it has no data/1"),
        ({"key": "../../etc/passwd"}, "it has no data/../../etc/passwd"),
        ({"storage": "Tensor"}, "refused: it names torch.Tensor"),
        ({"storage": "nn.Linear"}, "refused: it names torch.nn.Linear"),
        ({"extra": {"y/data.pkl": b"N."}}, "it must hold one data.pkl"),
        ({"compression": zipfile.ZIP_DEFLATED}, "refused: data.pkl is compressed"),
        ({"pickled": b"\x80\x02N."}, "holds a NoneType, not a dictionary of tensors"),
        ({"pickled": b"\x80\x02}K\x01N s."}, "is damaged"),
        ({"pickled": b"\x80\x02}K\x01Ns."}, "1 is a NoneType, not a tensor"),
        ({"pickled": b"\x80\x02."}, "is damaged"),
        ({"pickled": b"\x80\x02}"}, "is damaged"),
        ({"pickled": b"\x80\x02h\x07."}, "is damaged"),
        ({"pickled": b"\x80\x02}}Ns."}, "a key is a dict"),
        ({"pickled": b"\x80\x04\x96" + struct.pack("<Q", 2**60) + b"."}, "is damaged"),
        ({"pickled": b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b"."}, "is damaged"),
        ({"pickled": b"\x80\x02}r\xff\xff\xff\xff."}, "holds|damaged|^$"),
        ({"pickled": b"\x80\x02cos\nsystem\n(X\x02\x00\x00\x00lstR."}, "it names os.system"),
        ({"pickled": b"\x80\x02(ios\nsystem\n."}, "the operation INST makes no tensor"),
        ({"pickled": b"\x80\x02c__builtin__\neval\n."}, "it names __builtin__.eval"),
    ],
)
def test_archives_that_lie_are_refused(tmp_path, changes, message):
    archive = _Archive()
    for name, value in changes.items():
        assert hasattr(archive, name)
        setattr(archive, name, value)
    path = archive.write(tmp_path / "a.pth")
    if changes.get("pickled", b"").startswith(b"\x80\x02}r"):
        assert _read(path) == {}  # a memo of 4 billion places, of which one is taken
        return
    with pytest.raises(UserError, match=message):
        _read(path)


def test_a_deep_pickle_does_not_overflow(tmp_path):
    archive = _Archive()
    archive.pickled = b"\x80\x02" + b"]" * 200_000 + b"a" * 199_999 + b"."
    with pytest.raises(UserError, match="holds a list, not a dictionary"):
        _read(archive.write(tmp_path / "a.pth"))


def test_a_compressed_bomb_is_not_unpacked(tmp_path):
    archive = _Archive()
    archive.pickled = bytes(50_000_000)
    archive.compression = zipfile.ZIP_DEFLATED
    path = archive.write(tmp_path / "a.pth")
    assert path.stat().st_size < 200_000
    with pytest.raises(UserError, match="compressed or encrypted, which torch.save never does"):
        _read(path)


def test_a_claimed_length_that_no_memory_holds(tmp_path):
    """The zip's own directory says that a member has 4 GB."""
    data = io.BytesIO(_Archive().write(tmp_path / "a.pth").read_bytes())
    place = data.getvalue().rindex(b"PK\x01\x02")  # of data/0, the last in the directory
    data.seek(place + 20)
    data.write(struct.pack("<II", 0xFFFFFFF0, 0xFFFFFFF0))
    (tmp_path / "a.pth").write_bytes(data.getvalue())
    with pytest.raises(UserError, match=r"data/0 claims 4,294,967,280 bytes"):
        _read(tmp_path / "a.pth")
