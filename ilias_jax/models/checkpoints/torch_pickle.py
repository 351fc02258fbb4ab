"""The pickles in PyTorch's files: descriptions of tensors, of which nothing is run.

Beside tensors a checkpoint keeps the options of its training run, a scheduler, the position of a
random generator. Such objects become one inert mark, if a table below has their names. A pickle
that names anything else is refused, though nothing of it would be called either.
"""

import dataclasses
import math
import pickle
from typing import Any

import jax.numpy as jnp
import numpy as np

from ilias_jax.models.checkpoints.unpickling import (
    Operations,
    PickleStream,
    PlainUnpickler,
    RefusedError,
)

_MAX_DIMENSIONS = 32


@dataclasses.dataclass(frozen=True)
class Storage:
    """A flat array that lies elsewhere in the file.

    Attributes:
        dtype: of its elements.
        key: its name in the file.
        length: number of its elements.
    """

    dtype: np.dtype
    key: str
    length: int

    @property
    def num_bytes(self) -> int:
        """Of all elements."""
        return self.length * self.dtype.itemsize


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A view of a storage; offset and strides count elements and are not yet checked."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def view(self, name: str, data: bytes | memoryview) -> np.ndarray:
        """The tensor over the bytes of its storage; ValueError if it does not fit in them."""
        dtype, available, elements = self.storage.dtype, self.storage.length, math.prod(self.shape)
        if not elements:
            return np.frombuffer(b"", dtype).reshape(self.shape)
        if len(self.shape) > _MAX_DIMENSIONS:
            raise ValueError(f"{name} has {len(self.shape)} dimensions")
        axes = list(zip(self.shape, self.strides, strict=True))
        # numpy checks this too, but in 64 bits, which wrap around.
        if self.offset + sum((size - 1) * step for size, step in axes) >= available:
            raise ValueError(f"{name} reaches beyond its storage of {available} elements")
        if elements > available:  # a small file could fill any memory
            raise ValueError(f"{name} repeats its {available} elements to {elements:,}")
        strides = [step * dtype.itemsize if size > 1 else 0 for size, step in axes]
        return np.ndarray(self.shape, dtype, data, self.offset * dtype.itemsize, strides)


def _is_count(value: object) -> bool:
    return type(value) is int and value >= 0


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *others: Any) -> Tensor:
    """`torch._utils._rebuild_tensor_v2`; the others are for gradients."""
    if not (type(storage) is Storage and type(shape) is type(strides) is tuple):
        raise TypeError("a tensor has no storage or no shape")
    if len(shape) != len(strides) or not all(map(_is_count, (offset, *shape, *strides))):
        raise TypeError("a tensor has no proper shape")
    return Tensor(storage, offset, shape, strides)


def _parameter(tensor: Any, *others: Any) -> Tensor:
    """`torch._utils._rebuild_parameter`."""
    if type(tensor) is not Tensor:
        raise TypeError("a parameter has no tensor")
    return tensor


_MARK = object()  # stands for an object of any other class
_STORAGES = {
    **{"Double": "float64", "Float": "float32", "Half": "float16", "BFloat16": "bfloat16"},
    **{"Long": "int64", "Int": "int32", "Short": "int16", "Char": "int8"},
    **{"Byte": "uint8", "Bool": "bool"},
}
# Module -> names. Python 2 and protocols before 3 name the builtins otherwise, as does numpy before
# 2 its own modules and Python 3.13 those of paths.
_BUILTINS = "dict list set frozenset tuple int float str bool complex"
_PATHS = "PosixPath WindowsPath PurePosixPath PureWindowsPath Path"
_OBJECTS = {
    **{"collections": "Counter", "argparse": "Namespace", "_codecs": "encode"},
    **{"builtins": _BUILTINS, "__builtin__": _BUILTINS, "numpy": "ndarray dtype"},
    **{f"numpy.{core}.multiarray": "scalar _reconstruct" for core in ("core", "_core")},
    **{"pathlib": _PATHS, "pathlib._local": _PATHS},
    "torch": f"Size device {' '.join(_STORAGES.values())}",
}
_FUNCTIONS = {
    **{
        f"{module}.{name}": lambda *arguments: _MARK
        for module, names in _OBJECTS.items()
        for name in names.split()
    },
    **{f"torch.{name}Storage": jnp.dtype(dtype) for name, dtype in _STORAGES.items()},
    "collections.OrderedDict": lambda: {},
    "collections.defaultdict": lambda *default: {},
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
}


class TorchUnpickler(PlainUnpickler):
    """Makes `Tensor`, one mark for all other objects, and plain data; a set becomes a list.

    Attributes:
        storages: all that the pickle names, as the keys of a dictionary.
    """

    keys = (str, int)
    dispatch = Operations(PlainUnpickler.dispatch)
    dispatch[pickle.NEWOBJ[0]] = dispatch[pickle.REDUCE[0]]  # also of a class and its arguments
    dispatch[pickle.EMPTY_SET[0]] = dispatch[pickle.EMPTY_LIST[0]]
    dispatch[pickle.ADDITEMS[0]] = dispatch[pickle.APPENDS[0]]
    for _code in (pickle.BINPERSID[0], pickle.BINSTRING[0], pickle.SHORT_BINSTRING[0]):
        dispatch[_code] = pickle._Unpickler.dispatch[_code]

    def __init__(self, stream: PickleStream) -> None:
        super().__init__(stream, _FUNCTIONS)
        self.storages: dict[Storage, None] = {}

    def persistent_load(self, pid: Any) -> Storage:
        """A storage: ("storage", class, key, device, number of elements[, None])."""
        match pid:
            case (str("storage"), np.dtype() as dtype, str(key), _, int(length), *view) if (
                _is_count(length) and not any(view)
            ):
                storage = Storage(dtype, key, length)
                self.storages[storage] = None
                return storage
        raise RefusedError("a storage of a kind that is not known")

    def build(self, target: Any, state: Any) -> Any:
        """The object itself: attributes, such as a state dict's versions, are not wanted."""
        return target
