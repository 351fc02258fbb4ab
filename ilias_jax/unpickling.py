"""Pickles of plain data, read without importing or calling anything that a file names.

`pickle.load` runs what a file tells it to. An allow-list of names in `pickle.Unpickler.find_class`
does not suffice: its machine, in C, reserves 64 GB for one large memo index, and a deep tuple as
the key of a dictionary overflows its stack and ends the process. So this is the standard library's
other machine, written in Python, with an allow-list of operations too.
"""

import io
import pickle
import pickletools
import struct
from collections.abc import Callable, Mapping
from typing import Any

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
        """Reads one pickle, up to and including its end.

        Raises:
            RefusedError: it holds or asks for anything else.
            DamagedError: it is cut short or makes no sense.
        """
        try:
            return super().load()
        except _DAMAGE as error:
            raise DamagedError(f"{type(error).__name__}: {error}") from error

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
