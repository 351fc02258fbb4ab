"""The few things that a pickle may name: numpy arrays, their dtypes and scalars, and bytes.

A name in a pickle is never looked up. It becomes a `Name`, and "calling" one of the names below
builds the array here from its parts, each of them checked. numpy's own `__setstate__` is not used:
it trusts flags and pointers of the file.
"""

import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

_CODES = re.compile(r"f[248]|[iu][1248]|b1|O8?|[US][1-9]\d{0,8}")


class RefusedError(Exception):
    """The pickle asks for something that is not plain data; the message names it."""


class Name(NamedTuple):
    """A name that the pickle gives, without what it stands for."""

    module: str
    name: str

    def __str__(self) -> str:
        """Dotted, as in Python."""
        return f"{self.module}.{self.name}"


class Budget:
    """Bytes and elements that may still be copied: no honest file makes more than its own length.

    A pickle can refer to one long list a thousand times; without a bound a small file would fill
    the memory.
    """

    def __init__(self, size: int) -> None:
        self._left = size

    def spend(self, number: int) -> None:
        """Takes `number` off, or raises RefusedError."""
        self._left -= number
        if self._left < 0:
            raise RefusedError("more data than the file is long")


class DType:
    """A dtype that the file describes in two steps."""

    def __init__(self, code: str) -> None:
        if not isinstance(code, str) or not _CODES.fullmatch(code):
            raise RefusedError(f"numpy dtype {code!r}")
        self.value = np.dtype("O" if code == "O8" else code)

    def set_state(self, state: Any, budget: Budget) -> None:
        """Takes the byte order from (version, order, subdtype, names, fields, ...)."""
        del budget
        if not isinstance(state, tuple) or len(state) < 5 or state[1] not in tuple("<>=|"):
            raise RefusedError("a numpy dtype with an unknown state")
        if any(part is not None for part in state[2:5]):
            raise RefusedError("a structured numpy dtype")
        if state[1] in "<>":
            self.value = self.value.newbyteorder(state[1])


class Array:
    """An array that the file makes empty and then fills; `value` is None until then."""

    value: np.ndarray | None = None

    def set_state(self, state: Any, budget: Budget) -> None:
        """Fills it from (version, shape, dtype, fortran order, bytes or list of objects)."""
        if not isinstance(state, tuple) or len(state) != 5:
            raise RefusedError("a numpy array with an unknown state")
        _, shape, dtype, fortran, data = state
        self.value = _filled(data, _dtype(dtype), shape, "F" if fortran is True else "C", budget)


def call(name: Any, arguments: Any, budget: Budget) -> Any:
    """What a call of `name` gives; refused unless it is one of the few that build arrays."""
    maker = _MAKERS.get(name) if isinstance(name, Name) else None
    if maker is None or not isinstance(arguments, tuple):
        what = (
            f"a call of {str(name)!r}" if isinstance(name, Name) else "a call of something unnamed"
        )
        raise RefusedError(what)
    return maker(arguments, budget)


def check_name(name: Name) -> Name:
    """Returns the name; raises RefusedError unless it may stand in a file of arrays."""
    if name not in _MAKERS and name not in _TOKENS:
        raise RefusedError(f"the name {str(name)!r}")
    return name


def _filled(data: Any, dtype: np.dtype, shape: Any, order: Any, budget: Budget) -> np.ndarray:
    """The array; its data must be exactly as long as its shape says."""
    if not isinstance(shape, tuple) or not all(type(n) is int and n >= 0 for n in shape):
        raise RefusedError(f"a numpy array of shape {shape!r:.60}")
    if order not in ("C", "F"):
        raise RefusedError(f"a numpy array in the order {order!r:.20}")
    if isinstance(data, bytes) and dtype.kind != "O":
        _check_size(len(data), math.prod(shape) * dtype.itemsize, shape, dtype)
        return np.frombuffer(data, dtype).reshape(shape, order=order)
    if isinstance(data, list) and dtype.kind == "O":
        _check_size(len(data), math.prod(shape), shape, dtype)
        budget.spend(len(data))
        array = np.empty(len(data), object)
        for number, value in enumerate(data):  # a sequence must stay one element
            array[number] = value
        return array.reshape(shape, order=order)
    raise RefusedError(f"a numpy array of {dtype} made of a {type(data).__name__}")


def _check_size(found: int, wanted: int, shape: tuple[int, ...], dtype: np.dtype) -> None:
    if found != wanted:
        raise RefusedError(f"a numpy array {dtype}{list(shape)} made of {found} bytes or objects")


def _dtype(value: Any) -> np.dtype:
    if not isinstance(value, DType):
        raise RefusedError("a numpy array without a dtype")
    return value.value


def _make_array(arguments: tuple, budget: Budget) -> Array:
    """`_reconstruct(ndarray, (0,), b"b")`: empty, the state comes later."""
    del budget
    if not arguments or arguments[0] != Name("numpy", "ndarray"):
        raise RefusedError("a numpy array of another class")
    return Array()


def _make_empty(arguments: tuple, budget: Budget) -> Array:
    """`ndarray((0,))`: the same through the public class, as `ilias-jax export` writes it."""
    del budget
    if arguments != ((0,),):
        raise RefusedError("a call of 'numpy.ndarray'")
    return Array()


def _make_dtype(arguments: tuple, budget: Budget) -> DType:
    """`dtype("f4", False, True)`."""
    del budget
    return DType(arguments[0] if arguments else "")


def _make_scalar(arguments: tuple, budget: Budget) -> Any:
    """`scalar(dtype, bytes)`."""
    dtype, data = arguments
    return _filled(data, _dtype(dtype), (), "C", budget)[()]


def _make_from_buffer(arguments: tuple, budget: Budget) -> np.ndarray:
    """`_frombuffer(bytes, dtype, shape, order)`, protocol 5."""
    data, dtype, shape, order = arguments
    if _dtype(dtype).kind == "O":
        raise RefusedError("a buffer of objects")
    return _filled(data, _dtype(dtype), shape, order, budget)


def _make_encoded(arguments: tuple, budget: Budget) -> bytes:
    """`encode(text, "latin1")`: bytes, protocols 0 to 2."""
    text, encoding = arguments
    if not isinstance(text, str) or encoding != "latin1":
        raise RefusedError("_codecs.encode other than of text to latin1")
    budget.spend(len(text))
    return text.encode("latin1")


def _make_bytes(arguments: tuple, budget: Budget) -> bytes:
    """`bytes()`: no bytes, protocols 0 to 2."""
    del budget
    if arguments:
        raise RefusedError("a call of bytes with an argument")
    return b""


_MAKERS: dict[Name, Callable[[tuple, Budget], Any]] = {
    Name("numpy", "dtype"): _make_dtype,
    Name("numpy", "ndarray"): _make_empty,
    Name("_codecs", "encode"): _make_encoded,
    Name("builtins", "bytes"): _make_bytes,
    Name("__builtin__", "bytes"): _make_bytes,
}
for _core in ("numpy.core", "numpy._core"):  # of numpy 1 and of numpy 2
    _MAKERS[Name(f"{_core}.multiarray", "_reconstruct")] = _make_array
    _MAKERS[Name(f"{_core}.multiarray", "scalar")] = _make_scalar
    _MAKERS[Name(f"{_core}.numeric", "_frombuffer")] = _make_from_buffer

# Only spoken of: the class of an array, and what h5py notes about the strings in a dtype.
_TOKENS = {Name("numpy", "ndarray"), Name("builtins", "str"), Name("__builtin__", "unicode")}
