"""Plain data comes through every protocol; anything else is refused, named, and never run."""

import codecs
import io
import os
import pathlib
import pickle
import pickletools
import struct
import tracemalloc
from typing import Any

import h5py
import numpy as np
import pytest

from ilias_jax.models.checkpoints.torch_format import TorchUnpickler
from ilias_jax.models.checkpoints.unpickling import (
    ArrayUnpickler,
    DamagedError,
    PickleStream,
    PlainUnpickler,
    RefusedError,
)


def read_pickle(data: bytes) -> Any:
    return ArrayUnpickler(data).load()


VALUES = [
    *(0, 1, -5, 255, 256, 65536, -(2**31), 2**40, -(10**30), True, False, None, 0.1, -1e300),
    *("", "x", "é\n\\u0041\x80\U0001f600", "long " * 100, b"", b"\x00\xff", b"y" * 300),
    *((), (1,), (1, 2, 3), (1, 2, 3, 4), [], [1, [2, "z"]], {}, {"a": {"b": []}}),
    *(np.float32(2.5), np.int64(-3), np.float16(0.5), np.str_("é")),
]
ARRAYS = [
    np.arange(12, dtype=np.float32).reshape(3, 4),
    np.asfortranarray(np.arange(12).reshape(3, 4)),
    np.arange(12.0).reshape(3, 4)[::2, ::-1],
    np.arange(4, dtype=">i2"),
    np.array(["yfcc/1", "é"]),
    np.array([b"a", b"bc"]),
    np.array(["a", "bb", "a"], object),
    np.array([["a", "b"], ["c", "d"]], object),
    np.array([True, False]),
    np.zeros(0),
    np.zeros((3, 0), np.float16),
    np.array([], str),
    np.array(3.5),
]


@pytest.mark.parametrize("protocol", range(6))
def test_plain_data_comes_back(protocol: int) -> None:
    found = read_pickle(pickle.dumps(VALUES, protocol))
    assert found == VALUES
    assert [type(value) for value in found] == [type(value) for value in VALUES]


@pytest.mark.parametrize("array", ARRAYS, ids=lambda array: f"{array.dtype}{array.shape}")
@pytest.mark.parametrize("core", ["numpy._core", "numpy.core"])
def test_arrays_come_back_with_the_names_of_numpy_1_and_2(array: np.ndarray, core: str) -> None:
    for protocol in range(6):
        buffer = io.BytesIO()
        pickler = pickle._Pickler(buffer, protocol)
        pickler.dump({"a": array, "same": array, "list": [array]})
        found = read_pickle(_renamed(buffer.getvalue(), core))
        for value in (found["a"], found["same"], found["list"][0]):
            assert isinstance(value, np.ndarray) and value.dtype == array.dtype
            assert value.shape == array.shape and value.tolist() == array.tolist()


def _renamed(data: bytes, core: str) -> bytes:
    """The names of numpy's modules as another version writes them (same data, other lengths)."""
    if core == "numpy._core":
        return data
    for name in (b"numpy._core.multiarray", b"numpy._core.numeric"):
        new = name.replace(b"_core", b"core")
        data = data.replace(b"\x8c" + bytes([len(name)]) + name, b"\x8c" + bytes([len(new)]) + new)
        data = data.replace(b"c" + name + b"\n", b"c" + new + b"\n")
    assert b"_core" not in data
    return data


def test_what_h5py_writes_about_its_strings_is_read(tmp_path: pathlib.Path) -> None:
    with h5py.File(tmp_path / "f.hdf5", "w") as file:
        file["index"] = ["a/pos/P0.jpg", "b"]
        raw, text = file["index"][:], file["index"].asstr()[:]
    for array in (raw, text):
        found = read_pickle(pickle.dumps(array))
        assert found.tolist() == array.tolist()


class Reduced:
    """Pickles as any call that one likes."""

    def __init__(self, *parts: Any) -> None:
        self.parts = parts

    def __reduce__(self) -> Any:
        return self.parts


class Plain:
    """An object of a class."""


MARK = "RAN"
CALLS = {
    "os.system": (os.system, (f"touch {MARK}",)),
    "builtins.eval": (eval, (f"open({MARK!r}, 'w')",)),
    "builtins.exec": (exec, (f"open({MARK!r}, 'w')",)),
    "builtins.getattr": (getattr, (Reduced(__import__, ("os",)), "system")),
    "builtins.open": (open, (MARK, "w")),
    "builtins.__import__": (__import__, ("os",)),
    "numpy.load": (np.load, (MARK,)),
    "numpy.fromfile": (np.fromfile, (MARK,)),
    "numpy.memmap": (np.memmap, (MARK, "u1", "w+", 0, (4,))),
    "numpy.ndarray": (np.ndarray, ((10**12,), "u1")),
}


@pytest.mark.parametrize("name", CALLS)
def test_calls_are_refused_by_name_and_not_made(
    name: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for protocol in range(6):
        data = pickle.dumps({"query_ids": [Reduced(*CALLS[name])]}, protocol)
        with pytest.raises((RefusedError, DamagedError)) as error:
            read_pickle(data)
        assert name.split(".")[-1] in str(error.value) or name == "numpy.ndarray"
    assert not list(tmp_path.iterdir())


REFUSED = [
    # A call inside the arguments of an allowed one.
    (pickle.dumps(Reduced(np.dtype, (Reduced(os.system, ("ls",)),))), "'posix.system'"),
    (pickle.dumps(Reduced(bytearray, (10**12,))), "'builtins.bytearray'"),
    (pickle.dumps(Plain()), "Plain'"),
    (pickle.dumps(os.system), "'posix.system'"),
    (pickle.dumps({1, 2}), "operation EMPTY_SET"),
    (pickle.dumps(np.zeros(2, "f4,i4")), "numpy dtype 'V8'"),
    (pickle.dumps(np.zeros(2, "c8")), "numpy dtype 'c8'"),
    (pickle.dumps({(1, 2): 3}), "a dict key that is a tuple"),
    (b"cos\nsystem\n(S'ls'\ntR.", "the name 'os.system'"),
    (b"(ios\nsystem\n.", "operation INST"),
    (b"(cnumpy\ndtype\nU\x02f4o.", "operation SHORT_BINSTRING"),
    (b"(cnumpy\ndtype\no.", "operation OBJ"),
    (b"\x80\x04Pfile\n.", "operation PERSID"),
    (b"\x80\x04NQ.", "operation BINPERSID"),
    (b"\x80\x02\x82\x01.", "operation EXT1"),
    (b"\x80\x05\x97.", "operation NEXT_BUFFER"),
    (b"\x80\x04]}b.", "a state of a list"),
    (b"\x80\x02cnumpy\nndarray\n}b.", "a state of a method"),
    (b"\x80\x02cbuiltins\nstr\n}b.", "a state of a object"),
    (b"\x80\x02cbuiltins\nstr\n)\x81.", "operation NEWOBJ"),
    (b"\x80\x02]K\x01K\x02s.", "items of something other than a dict"),
    (b"\x80\x02](K\x01K\x02u.", "items of something other than a dict"),
    (b"\x80\x02(K\x01K\x02d.", "a dict key that is a int"),
    # Names with dots in either part are the dotted name, not attributes of attributes.
    (b"\x80\x04\x8c\x05numpy\x8c\x0cctypeslib.os\x93.", "the name 'numpy.ctypeslib.os'"),
]
DAMAGED = [
    (b"\x80\x02cnumpy\nndarray\n)R.", "_make_empty"),
    (pickle.dumps(Reduced(bytes, (10**12,))), "takes 0 positional arguments"),
    (b"\x80\x02cbuiltins\nstr\n)R.", "not callable"),
    (b"\x80\x02K\x05)R.", "'int' object is not callable"),
    (b"\x80\x02cnumpy\ndtype\n]R.", "arguments that are no tuple"),
    (b"\x80\x02}K\x01a.", "no attribute 'append'"),
    (b"\x80\x02}(K\x01e.", "no attribute 'append'"),
    (b"\x80\x02}(X\x01\0\0\0au.", "zip"),
    (b"\x80\x04K\x01K\x02\x93.", "STACK_GLOBAL requires str"),
    (b"\x80\x09N.", "unsupported pickle protocol: 9"),
    (b"hello", "Memo value not found"),
    (b"\xff", "the byte 0xff is no operation"),
]


@pytest.mark.parametrize(
    ("data", "what", "error"),
    [(*case, RefusedError) for case in REFUSED] + [(*case, DamagedError) for case in DAMAGED],
)
def test_other_things_are_refused_by_name(data: bytes, what: str, error: type) -> None:
    with pytest.raises(error, match=what):
        read_pickle(data)


def test_plain_pickles_hold_no_arrays_and_no_names() -> None:
    found = PlainUnpickler(PickleStream(pickle.dumps({"a": [1, b"x"]})), {}).load()
    assert found == {"a": [1, b"x"]}
    with pytest.raises(RefusedError, match="the name 'numpy.*reconstruct'"):
        PlainUnpickler(PickleStream(pickle.dumps(np.zeros(2), 4)), {}).load()


def _array_of(shape: tuple[int, ...], code: str, data: Any) -> bytes:
    """An array with a state of one's own choice."""
    maker, arguments, _ = np.zeros(1).__reduce__()
    dtype = Reduced(np.dtype, (code, False, True), (3, "|", None, None, None, -1, -1, 0))
    return pickle.dumps(Reduced(maker, arguments, (1, shape, dtype, False, data)))


@pytest.mark.parametrize(
    ("shape", "code", "data"),
    [
        ((10**12,), "f8", b""),
        ((2,), "f8", b"12345678"),
        ((1,), "O", b"\x00" * 8),  # bytes as pointers
        ((1,), "f8", ["text"]),
        ((2,), "O", ["one"]),
        ((-1,), "f8", b""),
        ((10**12,), "U0", b""),  # elements without a size
        ((1,), "V8", b"\x00" * 8),
        ((1,), "U1", b"\xff" * 4),  # no characters
        ((1,), "f8, O", b"\x00" * 16),
    ],
)
def test_arrays_that_are_not_what_they_say_are_refused(
    shape: tuple[int, ...], code: str, data: Any
) -> None:
    with pytest.raises(RefusedError, match="a numpy (array|dtype)|the numpy dtype"):
        read_pickle(_array_of(shape, code, data))


BOMBS = {
    "bytes": b"\x80\x05\x8e" + struct.pack("<Q", 2**62),
    "bytearray": b"\x80\x05\x96" + struct.pack("<Q", 2**40),
    "text": b"\x80\x05\x8d" + struct.pack("<Q", 2**63),
    "integer": b"\x80\x05\x8b" + struct.pack("<i", 2**31 - 1),
    "negative length": b"\x80\x05\x8b" + struct.pack("<i", -6) + b".",
    "memo": b"\x80\x05N" + b"r" + struct.pack("<I", 2**32 - 1) + b"0.",
    "frame": b"\x80\x05\x95" + struct.pack("<Q", 2**60),
    "digits": b"I" + b"9" * 10**6 + b"\n.",
}


@pytest.mark.parametrize("name", BOMBS)
def test_lengths_that_are_not_there_are_no_memory(name: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(DamagedError):
            read_pickle(BOMBS[name])
        assert tracemalloc.get_traced_memory()[1] < 10**7
    finally:
        tracemalloc.stop()


def test_what_is_referred_to_many_times_is_no_memory() -> None:
    names, arrays = ["x"] * 1000, []
    for _ in range(1000):
        maker, arguments, state = np.array(["x"], object).__reduce__()
        arrays.append(Reduced(maker, arguments, (1, (1000,), state[2], False, names)))
    text = np.str_("x" * 1000)
    maker, (dtype, data) = text.__reduce__()
    scalars = [Reduced(maker, (dtype, data)) for _ in range(1000)]
    encoded = [Reduced(codecs.encode, ("y" * 1000, "latin1"))] * 2
    encoded = [Reduced(*encoded[0].parts) for _ in range(1000)]
    for value in (arrays, scalars, encoded):
        with pytest.raises(RefusedError, match="more data than the file is long"):
            read_pickle(pickle.dumps(value, 2))


@pytest.mark.parametrize("protocol", range(6))
def test_a_file_cut_anywhere_is_damaged_and_not_another_value(protocol: int) -> None:
    whole = pickle.dumps({"a": np.arange(3.0), "b": ["x", 1.5, 10**20]}, protocol)
    for size in range(len(whole)):
        with pytest.raises(DamagedError):
            read_pickle(whole[:size])


def test_random_damage_is_a_message_at_worst() -> None:
    rng = np.random.default_rng(0)
    whole = pickle.dumps({"a": np.arange(3.0), "b": ["x", 1.5], "c": np.array(["u"], object)}, 2)
    refused = 0
    for _ in range(3000):
        data = bytearray(whole)
        for place in rng.integers(0, len(data), rng.integers(1, 4)):
            data[place] = rng.integers(0, 256)
        try:
            read_pickle(bytes(data))
        except (RefusedError, DamagedError):
            refused += 1
    assert refused > 1000


def test_deep_nesting_ends_in_a_value_or_a_message() -> None:
    depth = 200_000
    found = read_pickle(b"\x80\x02" + b"]" * depth + b"a" * (depth - 1) + b".")
    assert len(found) == 1
    deep = b")" + b"\x85" * depth
    for data in (b"}" + deep + b"Ns.", b"}(" + deep + b"Nu.", b"(" + deep + b"Nd."):
        with pytest.raises(RefusedError, match="a dict key that is a tuple"):
            read_pickle(b"\x80\x02" + data)


def test_every_operation_is_known_to_be_read_or_refused() -> None:
    """A new one of a later Python must not slip in."""
    names = {ord(opcode.code): opcode.name for opcode in pickletools.opcodes}
    refused = {
        *("STRING", "BINSTRING", "SHORT_BINSTRING", "EMPTY_SET", "ADDITEMS", "FROZENSET", "INST"),
        *("OBJ", "NEWOBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4", "PERSID", "BINPERSID"),
        *("NEXT_BUFFER", "READONLY_BUFFER"),
    }
    assert {names[code] for code in names.keys() - PlainUnpickler.dispatch.keys()} == refused
    torch = {names[code] for code in names.keys() - TorchUnpickler.dispatch.keys()}
    read = {"BINSTRING", "SHORT_BINSTRING", "EMPTY_SET", "ADDITEMS", "NEWOBJ", "BINPERSID"}
    assert torch == refused - read
