"""One tensor of PyTorch in a plain pickle, as `pickle.dump(tensor, file)` writes it.

The pickle holds the bytes of a file of `torch.save` of before 1.6 with the storage alone, and how
the tensor lies in it. As everywhere nothing that a file names is imported or called.
"""

from typing import Any, NamedTuple

import numpy as np
from etils import epath

from ilias_jax.errors import UserError
from ilias_jax.files import read_bytes
from ilias_jax.models.checkpoints.torch_format import Storage, Tensor, TorchUnpickler
from ilias_jax.models.checkpoints.unpickling import (
    DamagedError,
    PickleStream,
    PlainUnpickler,
    RefusedError,
)

_MAX_HEAD = 2**16  # bytes before those of the storage


class _Loaded(NamedTuple):
    """A storage and its bytes."""

    storage: Storage
    data: memoryview


def read_pickled_tensor(path: epath.Path) -> np.ndarray:
    """The tensor, read-only, of the dtype in the file.

    Raises:
        UserError: there is no such file, it is damaged, or it holds anything but a tensor.
    """
    functions = {
        "torch._utils._rebuild_tensor_v2": _rebuild,
        "torch.storage._load_from_bytes": _load,
        "collections.OrderedDict": lambda: {},
    }
    try:
        found = PlainUnpickler(PickleStream(read_bytes(path)), functions).load()
    except RefusedError as error:
        raise UserError(
            f"{path}: refused to read this pickle, it holds {error}; expected one tensor of "
            "PyTorch. Nothing of it was run"
        ) from error
    except DamagedError as error:
        raise UserError(f"{path}: not a whole pickle ({error}); copy the file again") from error
    if not isinstance(found, np.ndarray):
        raise UserError(f"{path}: a pickle of a {type(found).__name__}; expected a tensor")
    return found


def _load(data: Any) -> _Loaded:
    """`torch.storage._load_from_bytes`: magic number, version, machine, storage, keys and bytes."""
    if type(data) is not bytes:
        raise TypeError("a storage that is made of no bytes")
    stream = PickleStream(data[:_MAX_HEAD])
    _, _, machine, storage, keys = (TorchUnpickler(stream).load() for _ in range(5))
    if type(storage) is not Storage or keys != [storage.key]:
        raise ValueError("bytes of something other than a storage")
    if type(machine) is not dict or machine.get("little_endian") is not True:
        raise ValueError("a storage of a big-endian machine")
    start = stream.tell() + 8
    length = int.from_bytes(data[start - 8 : start], "little")
    content = memoryview(data)[start:]
    if length != storage.length or len(content) != storage.num_bytes:
        raise ValueError(f"a storage of {length} elements in {len(content)} bytes")
    return _Loaded(storage, content)


def _rebuild(loaded: Any, offset: Any, shape: Any, strides: Any, *others: Any) -> np.ndarray:
    """`torch._utils._rebuild_tensor_v2`; the others are for gradients."""
    if type(loaded) is not _Loaded or type(shape) is not tuple or type(strides) is not tuple:
        raise TypeError("a tensor without storage, shape or strides")
    counts = (offset, *shape, *strides)
    if len(shape) != len(strides) or not all(type(n) is int and n >= 0 for n in counts):
        raise TypeError("a tensor without a proper shape")
    return Tensor(loaded.storage, offset, shape, strides).view("it", loaded.data)
