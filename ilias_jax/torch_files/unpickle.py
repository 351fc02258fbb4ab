"""The pickles in PyTorch's files, interpreted by a machine that can describe tensors, no more.

Python's own unpickler calls what a file names, lets a file change the attributes of objects and
reserves as much memory as a file claims to need. This one knows the operations that a dictionary
of tensors takes, makes plain values of them and refuses all others by name.
"""

import dataclasses
import pickletools
from typing import Any, BinaryIO

from ilias_jax.errors import UserError

_MAX_OPERATIONS = 2_000_000  # a model of 10,000 tensors takes about 300,000
_MARK = object()
_CONSTANTS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_VALUES = frozenset(
    {"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"}
    | {"BINUNICODE", "SHORT_BINUNICODE", "BINSTRING", "SHORT_BINSTRING"}
)
# Names of torch's storage classes and what they hold.
_STORAGES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
}
_DICTIONARY = "collections.OrderedDict"
_TENSOR = "torch._utils._rebuild_tensor_v2"


@dataclasses.dataclass(frozen=True)
class StorageRef:
    """A flat array that is kept elsewhere in the file.

    Attributes:
        dtype: name of the elements' type.
        key: name of the array in the file.
        num_elements: its length.
    """

    dtype: str
    key: str
    num_elements: int


@dataclasses.dataclass(frozen=True)
class TensorRef:
    """A view of a storage; offset and strides count elements and are not yet checked."""

    storage: StorageRef
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Name:
    """An allowed global: a function or class that is named but never called."""

    name: str


class PickleError(ValueError):
    """A pickle that is damaged; the message completes "the file is damaged"."""


def unpickle(stream: BinaryIO, place: str) -> Any:
    """Reads one pickle from where the stream stands; see `Machine.run`."""
    return Machine(place).run(stream)


class Machine:
    """The stack machine of pickle.

    Args:
        place: name of the file, for messages.

    Attributes:
        stack: values so far.
        storages: all that the pickle names.
    """

    def __init__(self, place: str) -> None:
        self.stack: list[Any] = []
        self.storages: set[StorageRef] = set()
        self._memo: dict[int, Any] = {}
        self._place = place

    def run(self, stream: BinaryIO) -> Any:
        """Reads one pickle from where the stream stands, up to and including its end.

        Args:
            stream: the file.

        Returns:
            None, bool, int, float, str, `TensorRef`, and dict, list and tuple of them.

        Raises:
            UserError: it holds or asks for anything else.
            PickleError: it is cut short or makes no sense.
        """
        try:
            for count, (operation, argument, _) in enumerate(pickletools.genops(stream)):
                if count >= _MAX_OPERATIONS:
                    raise UserError(
                        f"{self._place}: refused: more than {_MAX_OPERATIONS:,} operations"
                    )
                self.step(operation.name, argument)
            (result,) = self.stack
            return result
        except (ValueError, IndexError, KeyError, TypeError) as error:
            raise PickleError(f"its pickle cannot be read: {error}") from error

    def step(self, name: str, argument: Any) -> None:
        """Executes one operation."""
        if name in _VALUES:
            self.stack.append(argument)
        elif name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name])
        elif name not in ("PROTO", "FRAME", "STOP"):
            method = getattr(self, f"_{name.lower()}", None)
            if method is None:
                raise UserError(f"{self._place}: refused: the operation {name} makes no tensor")
            method() if argument is None else method(argument)

    def _refuse(self, what: str) -> UserError:
        return UserError(
            f"{self._place}: refused: it names {what}, and only dictionaries of tensors are read; "
            "save the state_dict() of the module alone"
        )

    def _items(self) -> list[Any]:
        """Takes everything above the last mark, and the mark."""
        place = len(self.stack) - 1
        while self.stack[place] is not _MARK:
            place -= 1
        items = self.stack[place + 1 :]
        del self.stack[place:]
        return items

    def _take(self, count: int) -> tuple[Any, ...]:
        if len(self.stack) < count:
            raise IndexError("the stack is too short")
        items = tuple(self.stack[len(self.stack) - count :])
        del self.stack[len(self.stack) - count :]
        return items

    def _mark(self) -> None:
        self.stack.append(_MARK)

    def _empty_dict(self) -> None:
        self.stack.append({})

    def _empty_list(self) -> None:
        self.stack.append([])

    def _empty_tuple(self) -> None:
        self.stack.append(())

    def _tuple(self) -> None:
        self.stack.append(tuple(self._items()))

    def _tuple1(self) -> None:
        self.stack.append(self._take(1))

    def _tuple2(self) -> None:
        self.stack.append(self._take(2))

    def _tuple3(self) -> None:
        self.stack.append(self._take(3))

    def _append(self) -> None:
        self._extend(self._take(1))

    def _appends(self) -> None:
        self._extend(self._items())

    def _extend(self, items: Any) -> None:
        if not isinstance(self.stack[-1], list):
            raise TypeError("it appends to what is no list")
        self.stack[-1].extend(items)

    def _setitem(self) -> None:
        self._update(self._take(2))

    def _setitems(self) -> None:
        self._update(self._items())

    def _update(self, items: Any) -> None:
        target = self.stack[-1]
        if not isinstance(target, dict) or len(items) % 2:
            raise TypeError("it sets an item of what is no dictionary")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, str | int):
                raise TypeError(f"a key is a {type(key).__name__}")
            target[key] = value

    def _binput(self, number: int) -> None:
        self._memo[number] = self.stack[-1]

    _long_binput = _binput

    def _memoize(self) -> None:
        self._memo[len(self._memo)] = self.stack[-1]

    def _binget(self, number: int) -> None:
        self.stack.append(self._memo[number])

    _long_binget = _binget

    def _global(self, words: str) -> None:
        self._push_name(words.replace(" ", ".", 1))

    def _stack_global(self) -> None:
        words = self._take(2)
        if not all(isinstance(word, str) for word in words):
            raise TypeError("a name is no text")
        self._push_name(".".join(words))

    def _push_name(self, name: str) -> None:
        if not self._is_known(name):
            raise self._refuse(name)
        self.stack.append(Name(name))

    def _is_known(self, name: str) -> bool:
        """Whether a pickle may name this global."""
        module, _, last = name.rpartition(".")
        return name in (_DICTIONARY, _TENSOR) or (module == "torch" and last in _STORAGES)

    def _binpersid(self) -> None:
        """A storage: ("storage", class, key, device, number of elements[, None])."""
        (found,) = self._take(1)
        kind, class_, key, _, num_elements, *view = found
        if kind != "storage" or not isinstance(class_, Name) or any(part for part in view):
            raise self._refuse("a storage of a kind that is not known")
        dtype = _STORAGES[class_.name.removeprefix("torch.")]
        if not isinstance(key, str) or not _is_count(num_elements):
            raise TypeError("a storage has no key or no length")
        storage = StorageRef(dtype, key, num_elements)
        self.storages.add(storage)
        self.stack.append(storage)

    def _reduce(self) -> None:
        self.stack.append(self._call(*self._take(2)))

    def _call(self, function: Any, arguments: Any) -> Any:
        """What a call makes, of the two functions that are known."""
        if function == Name(_DICTIONARY) and arguments == ():
            return {}
        if function == Name(_TENSOR):
            return _tensor(arguments)
        raise self._refuse("a call that makes no tensor")

    def _build(self) -> None:
        """Attributes of an object, such as a state dict's versions: not wanted."""
        self._take(1)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _tensor(arguments: Any) -> TensorRef:
    """(storage, offset, shape, strides, requires_grad, hooks[, metadata])."""
    storage, offset, shape, strides = arguments[:4]
    if not isinstance(storage, StorageRef):
        raise TypeError("a tensor has no storage")
    numbers = (offset, *shape, *strides)
    if len(shape) != len(strides) or not all(map(_is_count, numbers)):
        raise TypeError("a tensor has no proper shape")
    return TensorRef(storage, offset, tuple(shape), tuple(strides))
