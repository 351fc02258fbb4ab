"""Pickles of whole training states: beside tensors they hold objects, of which none is made.

A checkpoint keeps the options of its training run, a scheduler, the position of a random generator.
Such objects become marks that say what was there. Only names of the list below may do so; a pickle
that names anything else is refused, though nothing of it would be called either.
"""

import dataclasses
from typing import Any

from ilias_jax.torch_files.unpickle import Machine, Name, TensorRef

_DICTIONARY = "collections.defaultdict"
_PARAMETER = "torch._utils._rebuild_parameter"
_DTYPES = ("float16", "bfloat16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8")
_BUILTINS = ("dict", "list", "set", "frozenset", "tuple", "int", "float", "str", "bool", "complex")
_CORES = ("core", "_core")
_PATHS = ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath", "Path")
_OBJECTS = frozenset(
    {_DICTIONARY, _PARAMETER, "collections.Counter", "argparse.Namespace", "_codecs.encode"}
    | {"torch.Size", "torch.device", "torch.bool", "numpy.ndarray", "numpy.dtype"}
    | {f"torch.{name}" for name in _DTYPES}
    # Python 2 and protocols before 3 name the builtins otherwise; numpy before 2 its modules.
    | {f"{module}.{name}" for module in ("builtins", "__builtin__") for name in _BUILTINS}
    | {f"numpy.{core}.multiarray.{name}" for core in _CORES for name in ("scalar", "_reconstruct")}
    | {f"{module}.{name}" for module in ("pathlib", "pathlib._local") for name in _PATHS}
)


@dataclasses.dataclass(frozen=True)
class Opaque:
    """Where an object would be, of the class or from the function of this name."""

    name: str


class OpaqueMachine(Machine):
    """A machine that passes over harmless objects.

    `run` returns what `Machine.run` does, and `Opaque` and bytes.
    """

    def _is_known(self, name: str) -> bool:
        return name in _OBJECTS or super()._is_known(name)

    def _call(self, function: Any, arguments: Any) -> Any:
        """A dictionary, a tensor or a mark, by the name of what would be called."""
        name = function.name if isinstance(function, Name) else ""
        if name == _DICTIONARY:
            return {}  # whatever makes its missing values
        if name == _PARAMETER:
            if not isinstance(arguments[0], TensorRef):
                raise TypeError("a parameter has no tensor")
            return arguments[0]
        return Opaque(name) if name in _OBJECTS else super()._call(function, arguments)

    def _newobj(self) -> None:
        class_, _ = self._take(2)
        if not isinstance(class_, Name) or class_.name not in _OBJECTS:
            raise self._refuse("an object that is no tensor")
        self.stack.append(Opaque(class_.name))

    def _binbytes(self, data: bytes) -> None:
        self.stack.append(data)

    _short_binbytes = _binbytes

    def _empty_set(self) -> None:
        self.stack.append([])

    _additems = Machine._appends
