"""PyTorch's files of tensors (`.pth`, `.pt`), read without PyTorch; nothing that they say is run.

The zip archive of today holds `<name>/data.pkl`, a pickle that describes the tensors,
`<name>/data/<key>`, the bytes of each storage, never compressed, and `<name>/byteorder`. The stream
of before 1.6 is five pickles (magic number, version, machine, object, keys) and then every storage
as its number of elements and its bytes.

Beside tensors a checkpoint keeps the options of its training run, a scheduler, the position of a
random generator. Such objects become one inert mark, if a table below has their names. A pickle
that names anything else is refused, though nothing of it would be called either.
"""

import dataclasses
import math
import mmap
import pickle
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, TypeVar

import jax.numpy as jnp
import numpy as np
from etils import epath

from ilias_jax.errors import UserError
from ilias_jax.files import reading
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
        """Bytes of all elements."""
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


_Leaf = TypeVar("_Leaf")
_Bytes = bytes | memoryview
_ZIP_START = b"PK\x03\x04"
# Before a member's bytes: a signature, fields that the directory repeats, the lengths of its name
# and of an extra field, and these two.
_LOCAL_HEADER = struct.Struct("<4s22xHH")
_ENCRYPTED = 1
# What a damaged directory of a zip comes to, and huge shapes of no element.
_DAMAGE = (ValueError, OverflowError, EOFError, NotImplementedError)
_MAGIC, _VERSION = 0x1950A86A20F9469CFC6C, 1001  # the first two pickles of a stream
# Bytes; that of a model of 10,000 tensors takes 2 MB, and one of empty lists 64 times its length.
_MAX_PICKLE = 1 << 24
# A file may hold a dictionary within itself, or one dictionary in very many places.
_MAX_DEPTH, _MAX_VALUES = 32, 1_000_000
_MAX_NAME = 1000  # letters: each name of a dictionary begins with that of the dictionary


def read_tensors(path: epath.Path, *, flat: bool = True) -> dict[str, np.ndarray]:
    """Reads the tensors in a file of `torch.save`; nothing of the file is executed.

    Memory is bounded by the file's own size: a storage must be there byte for byte, and no tensor
    may have more elements than its storage.

    Args:
        path: of the file.
        flat: whether it must be a dictionary of tensors and nothing else, as a `state_dict()`. Such
            a file is small: the storages of an archive are read and compared with their checksums.
            Otherwise dictionaries may lie in dictionaries; numbers, texts, lists, tuples and
            harmless objects, such as the options of a training run, are left out; and a local file
            is mapped into memory, so that of a tensor that nobody looks at no byte is read.

    Returns:
        Arrays by name, read-only, of the dtype in the file; tensors that share a storage share it.
        A name joins the keys on the way to the tensor by ".", such as `state_dict.fc.weight`.

    Raises:
        UserError: there is no such file, it is damaged, of another kind, holds no tensor, or names
            a class or function that is not known to be harmless.
    """
    if not path.exists() or path.is_dir():
        raise UserError(f"{path}: no such file")
    try:
        with reading(path):
            content = _map(path)
            if content[:4] == _ZIP_START:
                return _read_zip(content, path, flat)
            return _read_stream(content, path, flat)
    except RefusedError as error:
        raise UserError(
            f"{path}: refused: it holds {error}, and only dictionaries of tensors are read; save "
            "the state_dict() of the module alone"
        ) from error
    except zipfile.BadZipFile as error:
        raise UserError(
            f"{path} is damaged or no file of torch.save: {error}, as when a download stopped; "
            "download it again"
        ) from error
    except _DAMAGE as error:
        raise UserError(f"{path} is damaged or no file of torch.save: {error!s:.200}") from error


def _read_zip(content: memoryview, path: epath.Path, flat: bool) -> dict[str, np.ndarray]:
    with path.open("rb") as file, zipfile.ZipFile(file) as archive:
        members = _Archive(archive, content, path, verified=flat)
        found = TorchUnpickler(PickleStream(members.pickle())).load()
        tensors = _tensors_in(found, path, flat)
        return _arrays(tensors, members.byte_order(), members.bytes_of)


def flatten(found: Mapping[Any, Any], kind: type[_Leaf], separator: str) -> dict[str, _Leaf]:
    """The leaves of one class in dictionaries of dictionaries, by the keys on the way to them.

    Args:
        found: what lies in its lists and tuples is left out.
        kind: class of the leaves; others are left out.
        separator: between the keys of a name.

    Raises:
        ValueError: it is too deep or too large for any model, or two leaves have one name.
    """
    flat: dict[str, _Leaf] = {}
    for count, (name, value) in enumerate(_values(found, "", separator, 1)):
        if count >= _MAX_VALUES:
            raise ValueError(f"it holds more than {_MAX_VALUES:,} values")
        if isinstance(value, kind):
            if name in flat:
                raise ValueError(f"it holds two values of the name {name}")
            flat[name] = value
    return flat


def _values(
    found: Mapping[Any, Any], prefix: str, separator: str, depth: int
) -> Iterator[tuple[str, Any]]:
    """Every value of every dictionary, the dictionaries too."""
    if depth > _MAX_DEPTH:
        raise ValueError(f"its dictionaries lie more than {_MAX_DEPTH} deep in each other")
    for key, value in found.items():
        if len(prefix) + len(str(key)) > _MAX_NAME:
            raise ValueError(f"the name {key!r:.99} is too long")
        yield f"{prefix}{key}", value
        if isinstance(value, dict):
            yield from _values(value, f"{prefix}{key}{separator}", separator, depth + 1)


def _map(path: epath.Path) -> memoryview:
    """The bytes of a file, of a local one without reading them."""
    if "://" in str(path):
        return memoryview(path.read_bytes())
    with path.open("rb") as file:
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def _tensors_in(found: Any, path: epath.Path, flat: bool) -> dict[str, Tensor]:
    if not isinstance(found, dict):
        raise UserError(f"{path} holds a {type(found).__name__}, not a dictionary of tensors")
    others = {name: value for name, value in found.items() if not isinstance(value, Tensor)}
    if flat and others:
        name, value = next(iter(others.items()))
        raise UserError(
            f"{path}: {name!r:.200} is a {type(value).__name__}, not a tensor; save the "
            "state_dict() of the module alone"
        )
    tensors = flatten(found, Tensor, ".")
    if not tensors:
        keys = ", ".join(f"{each!r:.99}" for each in [*found][:9]) or "{}"
        raise UserError(f"{path} holds no tensor, only {keys}")
    return tensors


def _arrays(
    tensors: Mapping[str, Tensor], order: str, bytes_of: Callable[[Storage], _Bytes]
) -> dict[str, np.ndarray]:
    """Views of the storages, made little-endian as on all machines that JAX runs on."""
    storages = {each: bytes_of(each) for each in {tensor.storage for tensor in tensors.values()}}
    if order == "big":
        for storage, data in storages.items():
            swapped = np.frombuffer(data, f"u{storage.dtype.itemsize}").byteswap()
            storages[storage] = swapped.tobytes()
    return {name: each.view(name, storages[each.storage]) for name, each in tensors.items()}


class _Archive:
    """The zip of `torch.save`; its members are read one at a time or viewed where they lie.

    `content` is all of its bytes; `verified` storages are read and compared with their checksums.
    """

    def __init__(
        self, archive: zipfile.ZipFile, content: memoryview, path: epath.Path, verified: bool
    ) -> None:
        self._zip, self._content, self._path, self._verified = archive, content, path, verified
        self._names = set(archive.namelist())
        pickles = [name for name in self._names if name.endswith("/data.pkl")]
        if len(pickles) != 1 or len(self._names) != len(archive.namelist()):
            raise ValueError("it must hold one data.pkl and no name twice")
        self._folder = pickles[0].removesuffix("data.pkl")
        if f"{self._folder}constants.pkl" in self._names:
            raise UserError(
                f"{path} is a TorchScript archive, a program together with its weights, in which "
                "OpenAI published its CLIP models. Programs are not read: give the same weights as "
                "a .safetensors file, such as open_clip's on huggingface.co, or save the "
                "state_dict() of the loaded model with torch.save"
            )

    def pickle(self) -> bytes:
        return self._zip.read(self._info("data.pkl", _MAX_PICKLE))

    def byte_order(self) -> str:
        """That of the storages: "little" or "big"."""
        if f"{self._folder}byteorder" not in self._names:
            return "little"
        order = self._zip.read(self._info("byteorder", 6)).decode("latin-1")
        if order not in ("little", "big"):
            raise ValueError(f"its byte order is {order!r}")
        return order

    def bytes_of(self, storage: Storage) -> _Bytes:
        info = self._info(f"data/{storage.key}", storage.num_bytes)
        if info.file_size != storage.num_bytes:
            raise ValueError(f"{info.filename} has {info.file_size} bytes, not {storage.num_bytes}")
        return self._zip.read(info) if self._verified else self._view(info)

    def _view(self, info: zipfile.ZipInfo) -> memoryview:
        start = max(info.header_offset, 0) + _LOCAL_HEADER.size
        header = self._content[start - _LOCAL_HEADER.size : start]
        if len(header) < _LOCAL_HEADER.size:
            raise ValueError(f"{info.filename} lies outside of it")
        signature, name, extra = _LOCAL_HEADER.unpack(header)
        view = self._content[start + name + extra :][: info.file_size]
        if signature != _ZIP_START or len(view) != info.file_size:
            raise ValueError(f"{info.filename} is not where its directory says")
        return view

    def _info(self, name: str, most: int) -> zipfile.ZipInfo:
        if self._folder + name not in self._names:
            raise ValueError(f"it has no {name}")
        info = self._zip.getinfo(self._folder + name)
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & _ENCRYPTED:
            raise UserError(
                f"{self._path}: refused: {name} is compressed or encrypted, which torch.save never "
                "does"
            )
        if not info.file_size == info.compress_size <= min(most, len(self._content)):
            raise ValueError(f"{name} claims {info.file_size:,} bytes, at most {most:,} fit")
        return info


def _read_stream(content: memoryview, path: epath.Path, flat: bool) -> dict[str, np.ndarray]:
    stream = PickleStream(content[:_MAX_PICKLE])
    try:
        magic, version, machine = (TorchUnpickler(stream).load() for _ in range(3))
    except RefusedError as error:
        raise ValueError(f"it does not begin as one but holds {error}") from error
    little = machine.get("little_endian") if isinstance(machine, dict) else None
    if magic != _MAGIC or version != _VERSION or not isinstance(little, bool):
        raise ValueError("it does not begin as one")
    unpickler = TorchUnpickler(stream)
    tensors = _tensors_in(unpickler.load(), path, flat)
    keys, storages = TorchUnpickler(stream).load(), {each.key: each for each in unpickler.storages}
    known = isinstance(keys, list) and all(isinstance(key, str) for key in keys)
    if not known or sorted(keys) != sorted(storages) or len(keys) != len(unpickler.storages):
        raise ValueError("its tensors and its storages do not fit")
    order: Literal["little", "big"] = "little" if little else "big"
    data, end = {}, stream.tell()
    for storage in (storages[key] for key in keys):
        start = end + 8
        found, end = int.from_bytes(content[end:start], order), start + storage.num_bytes
        if end > len(content):
            raise ValueError("it ends too early, as when a download stopped; download it again")
        if found != storage.length:
            raise ValueError(f"storage {storage.key} is not of {storage.length} elements")
        data[storage] = content[start:end]
    return _arrays(tensors, order, data.__getitem__)
