"""Reads a pickle of plain data; nothing that the file names is imported or called.

`pickle.load` runs whatever a file tells it to. Here the opcodes are read one by one: those of
numbers, text, bytes, lists, tuples and dicts make just these, and a name may only be one of the few
that numpy uses for arrays (see `pickled_arrays`). Every other opcode and name is refused.

The opcodes are those of Python's `pickletools`, protocols 0 to 5, as Python 3 writes them.
"""

import pickletools
import struct
from collections.abc import Callable
from typing import Any

from ilias_jax.errors import UserError
from ilias_jax.official.pickled_arrays import (
    Array,
    Budget,
    DType,
    Name,
    RefusedError,
    call,
    check_name,
)

_WANTED = (
    "expected plain data: numpy arrays and numbers, lists, tuples, dicts, text, bytes, numbers"
)
# What reading a damaged file comes to: a short stack, an unknown number, bytes that are no text.
_DAMAGE = (IndexError, KeyError, OverflowError, RecursionError, TypeError, ValueError)
_OPCODES = {ord(opcode.code): opcode.name for opcode in pickletools.opcodes}


def read_pickle(data: bytes, place: str) -> Any:
    """Returns the value of a pickle: containers, text, numbers and numpy arrays.

    Arrays of numbers and text share the memory of `data` where they can, and are read only. The
    few names that a pickle may hold without calling them stay inert `Name` tokens.

    Args:
        data: the whole file.
        place: the file's name, for messages.

    Raises:
        UserError: the file is damaged, or holds anything but plain data; names what was refused.
    """
    try:
        return _Machine(data).run()
    except RefusedError as error:
        raise UserError(
            f"{place}: refused to read this pickle, it holds {error}; {_WANTED}. "
            "Nothing of it was run. If you trust its author, write the plain data again"
        ) from error
    except _DAMAGE as error:
        raise UserError(
            f"{place}: not a whole pickle ({type(error).__name__}: {error}); copy the file again"
        ) from error


class _Machine:
    """The stack machine of a pickle."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0
        self._stack: list[Any] = []
        self._marks: list[list[Any]] = []  # the stacks below each mark
        self._memo: dict[int, Any] = {}
        self._budget = Budget(len(data))

    def run(self) -> Any:
        """Executes opcodes until STOP and returns what is on the stack then."""
        data, stop = self._data, ord(".")
        while (opcode := data[self._at]) != stop:
            self._at += 1
            handler = _HANDLERS.get(opcode)
            if handler is None:
                raise RefusedError(f"the opcode {_OPCODES.get(opcode, hex(opcode))}")
            handler(self)
        return self._pop()

    def push(self, value: Any) -> None:
        """Puts a value on the stack."""
        self._stack.append(value)

    def take(self, size: int) -> bytes:
        """The next `size` bytes, all of them there."""
        if not 0 <= size <= len(self._data) - self._at:
            raise ValueError(f"{size} bytes announced, {len(self._data) - self._at} left")
        self._at += size
        return self._data[self._at - size : self._at]

    def number(self, layout: str) -> Any:
        """One number in the layout of `struct`."""
        return struct.unpack(layout, self.take(struct.calcsize(layout)))[0]

    def line(self) -> bytes:
        """The bytes up to the next line end, without it."""
        end = self._data.index(b"\n", self._at)
        part = self._data[self._at : end]
        self._at = end + 1
        return part

    def mark(self) -> None:
        """Begins a new stack."""
        self._marks.append(self._stack)
        self._stack = []

    def pop_mark(self) -> list[Any]:
        """Returns what was pushed since the last mark."""
        items, self._stack = self._stack, self._marks.pop()
        return items

    def tuple_of(self, size: int) -> None:
        """Makes a tuple of the last `size` values."""
        items = [self._pop() for _ in range(size)]
        self.push(tuple(reversed(items)))

    def put(self, key: int) -> None:
        """Remembers the last value."""
        self._memo[key] = self._stack[-1]

    def memoize(self) -> None:
        """Remembers the last value under the next number."""
        self.put(len(self._memo))

    def get(self, key: int) -> None:
        """Pushes what was remembered; an array that was filled in the meantime as it is now."""
        value = self._memo[key]
        filled = isinstance(value, Array) and value.value is not None
        self.push(value.value if filled else value)

    def append(self, values: list[Any]) -> None:
        """Adds values to the list below them."""
        if type(self._stack[-1]) is not list:
            raise RefusedError("an append to something other than a list")
        self._stack[-1].extend(values)

    def set_items(self, pairs: list[Any]) -> None:
        """Adds keys and values to the dict below them."""
        if type(self._stack[-1]) is not dict:
            raise RefusedError("items of something other than a dict")
        self._stack[-1].update(_dict(pairs))

    def call(self) -> None:
        """Builds what a name and its arguments stand for."""
        arguments = self._pop()
        self.push(call(self._pop(), arguments, self._budget))

    def build(self) -> None:
        """Gives an array or a dtype its state."""
        state = self._pop()
        target = self._stack[-1]
        if not isinstance(target, Array | DType):
            raise RefusedError(f"a state of a {type(target).__name__}")
        target.set_state(state, self._budget)
        if isinstance(target, Array):
            self._stack[-1] = target.value

    def name_from_stack(self) -> None:
        """Pushes a name whose module and name are the last two values."""
        name, module = self._pop(), self._pop()
        if type(name) is not str or type(module) is not str:
            raise RefusedError("a name that is no text")
        self.push(check_name(Name(module, name)))

    def last(self) -> list[Any]:
        """Pops the last value, as a list of one."""
        return [self._pop()]

    def last_two(self) -> list[Any]:
        """Pops the last two values."""
        value = self._pop()
        return [self._pop(), value]

    def duplicate(self) -> None:
        """Pushes the last value again."""
        self.push(self._stack[-1])

    def _pop(self) -> Any:
        return self._stack.pop()


def _text_line(machine: _Machine) -> str:
    return machine.line().decode("raw-unicode-escape")


def _integer_line(machine: _Machine) -> int | bool:
    """A decimal integer; 00 and 01 are the booleans of protocol 0."""
    text = machine.line()
    booleans = {b"00": False, b"01": True}
    return booleans[text] if text in booleans else int(text.rstrip(b"L"))


def _sized(layout: str) -> Callable[[_Machine], bytes]:
    """Reads a length and as many bytes."""
    return lambda machine: machine.take(machine.number(layout))


def _text(layout: str) -> Callable[[_Machine], str]:
    return lambda machine: str(machine.take(machine.number(layout)), "utf-8", "surrogatepass")


def _integer(layout: str) -> Callable[[_Machine], int]:
    return lambda machine: int.from_bytes(
        machine.take(machine.number(layout)), "little", signed=True
    )


def _name_lines(machine: _Machine) -> Name:
    return check_name(Name(machine.line().decode(), machine.line().decode()))


def _dict(items: list[Any]) -> dict[str, Any]:
    """Keys and values in turn. Text keys alone: the hash of a deep tuple can end the process."""
    if any(type(key) is not str for key in items[::2]):
        raise RefusedError("a dict key that is no text")
    return dict(zip(items[::2], items[1::2], strict=True))


# What each opcode pushes.
_VALUES: dict[str, Callable[[_Machine], Any]] = {
    "NONE": lambda machine: None,
    "NEWTRUE": lambda machine: True,
    "NEWFALSE": lambda machine: False,
    "INT": _integer_line,
    "LONG": _integer_line,
    "BININT": lambda machine: machine.number("<i"),
    "BININT1": lambda machine: machine.number("<B"),
    "BININT2": lambda machine: machine.number("<H"),
    "LONG1": _integer("<B"),
    "LONG4": _integer("<i"),
    "FLOAT": lambda machine: float(machine.line()),
    "BINFLOAT": lambda machine: machine.number(">d"),
    "UNICODE": _text_line,
    "SHORT_BINUNICODE": _text("<B"),
    "BINUNICODE": _text("<I"),
    "BINUNICODE8": _text("<Q"),
    "SHORT_BINBYTES": _sized("<B"),
    "BINBYTES": _sized("<I"),
    "BINBYTES8": _sized("<Q"),
    "BYTEARRAY8": _sized("<Q"),
    "EMPTY_LIST": lambda machine: [],
    "EMPTY_TUPLE": lambda machine: (),
    "EMPTY_DICT": lambda machine: {},
    "LIST": _Machine.pop_mark,
    "TUPLE": lambda machine: tuple(machine.pop_mark()),
    "DICT": lambda machine: _dict(machine.pop_mark()),
    "GLOBAL": _name_lines,
}
# What the other opcodes do.
_ACTIONS: dict[str, Callable[[_Machine], Any]] = {
    "PROTO": lambda machine: machine.take(1),
    "FRAME": lambda machine: machine.take(8),
    "MARK": _Machine.mark,
    "POP": _Machine.last,
    "POP_MARK": _Machine.pop_mark,
    "DUP": _Machine.duplicate,
    "TUPLE1": lambda machine: machine.tuple_of(1),
    "TUPLE2": lambda machine: machine.tuple_of(2),
    "TUPLE3": lambda machine: machine.tuple_of(3),
    "PUT": lambda machine: machine.put(int(machine.line())),
    "BINPUT": lambda machine: machine.put(machine.number("<B")),
    "LONG_BINPUT": lambda machine: machine.put(machine.number("<I")),
    "MEMOIZE": _Machine.memoize,
    "GET": lambda machine: machine.get(int(machine.line())),
    "BINGET": lambda machine: machine.get(machine.number("<B")),
    "LONG_BINGET": lambda machine: machine.get(machine.number("<I")),
    "APPEND": lambda machine: machine.append(machine.last()),
    "APPENDS": lambda machine: machine.append(machine.pop_mark()),
    "SETITEM": lambda machine: machine.set_items(machine.last_two()),
    "SETITEMS": lambda machine: machine.set_items(machine.pop_mark()),
    "STACK_GLOBAL": _Machine.name_from_stack,
    "REDUCE": _Machine.call,
    "BUILD": _Machine.build,
}


def _pushing(read: Callable[[_Machine], Any]) -> Callable[[_Machine], None]:
    return lambda machine: machine.push(read(machine))


_HANDLERS: dict[int, Callable[[_Machine], Any]] = {
    code: _pushing(_VALUES[name]) if name in _VALUES else _ACTIONS[name]
    for code, name in _OPCODES.items()
    if name in _VALUES or name in _ACTIONS
}
