"""Pickles of plain data, read without importing or calling anything that a file names.

`pickle.load` runs what a file tells it to. An allow-list of names in `pickle.Unpickler.find_class`
does not suffice: its machine, in C, reserves 64 GB for one large memo index, and a deep tuple as
the key of a dictionary overflows its stack and ends the process. So this is the standard library's
other machine, written in Python, with an allow-list of operations too.
"""

import io
import math
import pickle
import pickletools
import re
import reprlib
import struct
import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

_NAMES = {ord(opcode.code): opcode.name for opcode in pickletools.opcodes}
# Absent are those that make objects (INST, OBJ, NEWOBJ, NEWOBJ_EX, EXT), ask for data from
# elsewhere (PERSID, BINPERSID, buffers), hash what they hold (sets) or are of Python 2 (STRING).
_PLAIN = (
    *("PROTO", "FRAME", "STOP", "MARK", "POP", "POP_MARK", "DUP", "NONE", "NEWTRUE", "NEWFALSE"),
    *("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE", "GET", "BINGET", "LONG_BINGET"),
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
    *("EMPTY_LIST", "LIST", "APPEND", "APPENDS", "EMPTY_DICT", "DICT", "SETITEM", "SETITEMS"),
    *("EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"),
    *("GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD"),
)
# What the machine raises for bytes that no pickler wrote.
_DAMAGE = (
    *(pickle.UnpicklingError, struct.error, EOFError, AttributeError, LookupError, TypeError),
    *(ValueError, ArithmeticError, RecursionError),
)


class RefusedError(Exception):
    """A pickle asks for more than plain data; the message names what."""


class DamagedError(ValueError):
    """A pickle is cut short or makes no sense; the message says where it ends."""


class Operations(dict[int, Any]):
    """The operations that a machine executes, by their codes; any other is refused by name."""

    def __missing__(self, code: int) -> Any:
        """Raises RefusedError, or ValueError where there is no such operation."""
        if code in _NAMES:
            raise RefusedError(f"the operation {_NAMES[code]}")
        raise ValueError(f"the byte {code:#04x} is no operation")


class PickleStream(io.BytesIO):
    """The bytes of pickles; what is not there reserves no memory."""

    def readline(self, size: int | None = -1) -> bytes:
        """The bytes up to a line end, which must be there: a name that is cut is another name."""
        line = super().readline(size)
        if not line.endswith(b"\n"):
            raise EOFError("a line is cut short")
        return line


class PlainUnpickler(pickle._Unpickler):
    """A machine that makes None, bool, int, float, str, bytes, list, tuple and dict.

    Whatever else it makes comes from `functions`. They are the only objects on its stack that can
    be called, and no attribute of any object can be set. Memory is bounded by the length of the
    pickle as long as the functions keep to it.

    Args:
        stream: the pickle, from where the stream stands.
        functions: dotted names that the pickle may hold -> what stands for them, usually a
            function of the arguments in the pickle.
    """

    stack: list[Any]
    append: Callable[[Any], None]
    pop_mark: Callable[[], list[Any]]
    keys: Any = str  # classes of keys; the hash of a deep tuple can end the process
    dispatch = Operations(
        {code: run for code, run in pickle._Unpickler.dispatch.items() if _NAMES[code] in _PLAIN}
    )

    def __init__(self, stream: PickleStream, functions: Mapping[str, Any]) -> None:
        super().__init__(stream, encoding="latin-1")
        self._functions = functions

    def load(self) -> Any:
        """Reads one pickle up to and including its end; raises RefusedError or DamagedError."""
        try:
            return super().load()
        except _DAMAGE as error:
            cut = "it ends too early, as when a download stopped"
            reason = cut if isinstance(error, EOFError) else error
            raise DamagedError(f"{type(error).__name__}: {reason}") from error

    def find_class(self, module: str, name: str) -> Any:
        """What stands for a name, which is not imported."""
        dotted = f"{module}.{name}"
        if dotted not in self._functions:
            raise RefusedError(f"the name {dotted!r:.100}")
        return self._functions[dotted]

    def build(self, target: Any, state: Any) -> Any:
        """What an object becomes that is given a state."""
        raise RefusedError(f"a state of a {type(target).__name__}")

    def _reduce(self) -> None:
        arguments = self.stack.pop()
        if type(arguments) is not tuple:
            raise TypeError("arguments that are no tuple")
        self.stack[-1] = self.stack[-1](*arguments)

    def _build(self) -> None:
        state = self.stack.pop()
        self.stack[-1] = self.build(self.stack[-1], state)

    def _dict(self) -> None:
        items = self.pop_mark()
        self.append({})
        self._update(items)

    def _setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._update([key, value])

    def _setitems(self) -> None:
        self._update(self.pop_mark())

    def _update(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is not dict:
            raise RefusedError("items of something other than a dict")
        if wrong := [key for key in items[::2] if not isinstance(key, self.keys)]:
            raise RefusedError(f"a dict key that is a {type(wrong[0]).__name__}")
        self.stack[-1].update(zip(items[::2], items[1::2], strict=True))

    dispatch[pickle.BYTEARRAY8[0]] = dispatch[pickle.BINBYTES8[0]]
    dispatch[pickle.REDUCE[0]] = _reduce
    dispatch[pickle.BUILD[0]] = _build
    dispatch[pickle.DICT[0]] = _dict
    dispatch[pickle.SETITEM[0]] = _setitem
    dispatch[pickle.SETITEMS[0]] = _setitems


class _Unfinished:
    """A dtype or an array between its call and its state; `value` is None until it has one."""

    def __init__(self, finish: Callable[[Any], Any]) -> None:
        self.finish, self.value = finish, None


class _Memo(dict[int, Any]):
    """What a pickle refers to; an array that was finished in the meantime as it is now."""

    def __getitem__(self, number: int) -> Any:
        found = super().__getitem__(number)
        return found.value if isinstance(found, _Unfinished) and found.value is not None else found


_DTYPES = re.compile(r"f[248]|[iu][1248]|b1|O8?|[US][1-9]\d{0,8}")


def _make_dtype(code: Any, *flags: Any) -> _Unfinished:
    """`dtype("f4", False, True)`; the byte order comes with the state."""
    if type(code) is not str or not _DTYPES.fullmatch(code):
        raise RefusedError(f"the numpy dtype {reprlib.repr(code)}")

    def finish(state: Any) -> np.dtype:
        """From (version, order, subdtype, names, fields, ...)."""
        if type(state) is not tuple or len(state) < 5 or state[1] not in (*"<>=|",):
            raise RefusedError("a numpy dtype with an unknown state")
        if any(part is not None for part in state[2:5]):
            raise RefusedError("a structured numpy dtype")
        dtype = np.dtype("O" if code == "O8" else code)
        return dtype.newbyteorder(state[1]) if state[1] in "<>" else dtype

    return _Unfinished(finish)


def _check_text(data: bytes, dtype: np.dtype) -> None:
    """Refuses text with numbers that are no characters, at which numpy raises SystemError."""
    if dtype.kind == "U":
        codes = np.frombuffer(data, np.dtype(np.uint32).newbyteorder(dtype.byteorder))
        if codes.max(initial=0) > sys.maxunicode:
            raise RefusedError(f"a numpy array of {dtype} with what is no character")


class ArrayUnpickler(PlainUnpickler):
    """A machine that makes numpy's arrays and scalars of numbers, text and objects too.

    Each is built here from its parts, which are checked. numpy's own `__setstate__` is not used: it
    trusts flags and pointers of the file. Arrays of numbers and text are read-only; they share the
    memory of the bytes in the file where they can.

    Args:
        data: the whole pickle, of any protocol and of numpy 1 or 2.
    """

    def __init__(self, data: bytes) -> None:
        functions: dict[str, Any] = {
            "numpy.dtype": _make_dtype,
            "numpy.ndarray": self._make_empty,  # as `ilias-jax export` writes it
            "_codecs.encode": self._encode,  # bytes, protocols 0 to 2
            **dict.fromkeys(("builtins.bytes", "__builtin__.bytes"), lambda: b""),
            # Only named, as what h5py notes about the strings in a dtype.
            **dict.fromkeys(("builtins.str", "__builtin__.unicode"), object()),
        }
        for core in ("numpy.core", "numpy._core"):
            functions[f"{core}.multiarray._reconstruct"] = self._reconstruct
            functions[f"{core}.multiarray.scalar"] = self._make_scalar
            functions[f"{core}.numeric._frombuffer"] = self._fill  # protocol 5
        super().__init__(PickleStream(data), functions)
        self.memo = _Memo()
        self._ndarray = functions["numpy.ndarray"]
        self._left = len(data)

    def build(self, target: Any, state: Any) -> Any:
        """The array or dtype of which the target is the beginning."""
        if not isinstance(target, _Unfinished):
            return super().build(target, state)
        target.value = target.finish(state)
        return target.value

    def _spend(self, number: int) -> None:
        """Counts bytes and objects that are copied: no honest file makes more than its length.

        A small file that refers to one long list a thousand times would fill the memory.
        """
        self._left -= number
        if self._left < 0:
            raise RefusedError("more data than the file is long")

    def _encode(self, text: Any, encoding: Any) -> bytes:
        if type(text) is not str or encoding != "latin1":
            raise RefusedError("_codecs.encode other than of text to latin1")
        self._spend(len(text))
        return text.encode("latin1")

    def _make_empty(self, shape: Any) -> _Unfinished:
        if shape != (0,):
            raise RefusedError("a call of 'numpy.ndarray'")
        return _Unfinished(self._finish_array)

    def _reconstruct(self, kind: Any, shape: Any, code: Any) -> _Unfinished:
        if kind is not self._ndarray:
            raise RefusedError("a numpy array of another class")
        return _Unfinished(self._finish_array)

    def _finish_array(self, state: Any) -> np.ndarray:
        """From (version, shape, dtype, whether in Fortran's order, bytes or list of objects)."""
        if type(state) is not tuple or len(state) != 5:
            raise RefusedError("a numpy array with an unknown state")
        return self._fill(state[4], state[2], state[1], "F" if state[3] is True else "C")

    def _make_scalar(self, dtype: Any, data: Any) -> Any:
        scalar = self._fill(data, dtype, (), "C")
        self._spend(scalar.nbytes)  # of long texts
        return scalar[()]

    def _fill(self, data: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
        if not isinstance(dtype, np.dtype):
            raise RefusedError("a numpy array without a dtype")
        is_shape = type(shape) is tuple and all(type(size) is int and size >= 0 for size in shape)
        if not is_shape or order not in ("C", "F"):
            raise RefusedError(f"a numpy array of {reprlib.repr(shape)} in {reprlib.repr(order)}")
        source, size = (list, 1) if dtype.kind == "O" else (bytes, dtype.itemsize)
        if not isinstance(data, source) or len(data) != math.prod(shape) * size:
            raise RefusedError(f"a numpy array of {dtype} made of {reprlib.repr(data)}")
        if isinstance(data, bytes):
            _check_text(data, dtype)
            return np.frombuffer(data, dtype).reshape(shape, order=order)
        self._spend(len(data))
        array = np.empty(len(data), object)
        for number, value in enumerate(data):  # a sequence must stay one element
            array[number] = value
        return array.reshape(shape, order=order)
