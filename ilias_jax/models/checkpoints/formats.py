"""The arrays in a file of weights, whichever library wrote it; its first bytes tell the format.

The package `safetensors` reads a file's tensors into memory in its numpy form, and not all of its
versions know bfloat16 there; so the header, eight bytes of length and JSON, is read here.
"""

import dataclasses
import functools
import json
import math
import operator
import re
import zipfile
from collections.abc import Callable
from typing import IO, Literal, NamedTuple

import ml_dtypes
import numpy as np
from etils import epath
from flax import serialization

from ilias_jax.errors import UserError
from ilias_jax.files import ZIP_ERRORS, read_bytes, read_npz, reading
from ilias_jax.models.checkpoints.torch_format import flatten, read_tensors

Format = Literal["npz", "safetensors", "torch", "msgpack"]
# First byte of a msgpack map -> bytes before its first key. One of no entries begins with 0x80, as
# pickles do.
_MAPS = {**dict.fromkeys(range(0x81, 0x90), 1), 0xDE: 3, 0xDF: 5}
_TEXTS = (*range(0xA0, 0xC0), 0xD9, 0xDA, 0xDB)  # first bytes of a text
_READ = (
    "read are an npz, a .safetensors, a checkpoint of torch.save (.pth, .pt, .pth.tar) and one of "
    "flax (msgpack)"
)
# Files that people have under the name of weights: how they begin, and what they are.
_OTHERS = {
    b"version https://git-lfs": "a pointer of git-lfs; get the file itself with `git lfs pull`",
    b"<": "a web page, not the file of weights behind it; download that",
    b"\x1f\x8b": "compressed with gzip; unpack it",
    b"\x89HDF": "HDF5, as Keras writes; save the weights in a format that is read",
}
_TAR_MAGIC = slice(257, 262)
# How an archive of PyTorch begins, whichever its first member.
_TORCH_START = re.compile(
    rb"PK\x03\x04.{26}[^/]{1,200}/(data\.pkl|data/\d|byteorder|version|\.)", re.DOTALL
)
_ZIP_HEAD = 300
_LENGTH_BYTES, _MAX_HEADER, _MAX_DIMENSIONS = 8, 10**8, 32
_DTYPES = {
    **{f"F{8 * size}": np.dtype(f"f{size}") for size in (2, 4, 8)},
    **{
        f"{kind.upper()}{8 * size}": np.dtype(f"{kind}{size}")
        for kind in "iu"
        for size in (1, 2, 4, 8)
    },
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "BOOL": np.dtype(np.bool_),
}


@dataclasses.dataclass(frozen=True)
class Arrays:
    """What a file of weights holds.

    Attributes:
        format: of the file.
        arrays: by name, of the dtype in the file; not to be written to. The keys of nested
            dictionaries are joined by "." in a torch file and by "/" in a msgpack.
    """

    format: Format
    arrays: dict[str, np.ndarray]


class StoredTensor(NamedTuple):
    """Where a tensor lies in a safetensors file: from byte `first` to `end` of the file."""

    dtype: np.dtype
    shape: tuple[int, ...]
    first: int
    end: int


def read_arrays(path: epath.PathLike) -> Arrays:
    """Reads all arrays of a file; numbers, texts and objects beside them are left out.

    Those of a local safetensors or torch file are views of it: nothing is read before it is used.

    Raises:
        UserError: there is no such file, it is of no format that is read, or it is damaged.
    """
    path = epath.Path(path)
    if not path.exists() or path.is_dir():
        raise UserError(f"{path}: no such file of weights; {_READ}")
    found = format_of(path)
    if found == "unknown":
        raise UserError(f"{path} is {_other_kind(path)}; {_READ}")
    return Arrays(found, _READERS[found](path))


def format_of(path: epath.Path) -> Format | Literal["unknown"]:
    """What a file is, by its first bytes."""
    with reading(path), path.open("rb") as file:
        start = file.read(9)
        if start.startswith(b"PK"):
            return "torch" if _is_torch_zip(file) else "npz"
    # A safetensors file begins with the length of its header, eight bytes of which the first may be
    # any, a pickle's too, and goes on with the header's JSON.
    if start.endswith(b"{"):
        return "safetensors"
    if start.startswith(b"\x80"):
        return "torch"
    # A msgpack is a map whose first key is a text.
    head = _MAPS.get(start[0], len(start)) if start else 0
    return "msgpack" if len(start) > head and start[head] in _TEXTS else "unknown"


def _other_kind(path: epath.Path) -> str:
    with reading(path), path.open("rb") as file:
        start = file.read(_TAR_MAGIC.stop)
    if start[_TAR_MAGIC] == b"ustar":
        return "a tar archive; unpack it"
    kinds = (kind for begin, kind in _OTHERS.items() if start.lstrip().startswith(begin))
    return next(kinds, "no file of weights, or only a part of one")


def _is_torch_zip(file: IO[bytes]) -> bool:
    """Whether a zip archive is a PyTorch file: a pickle beside folders of data, or begins as one.

    A file that was cut short has lost the directory at its end.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            return any(name.endswith("/data.pkl") for name in archive.namelist())
    except (ValueError, *ZIP_ERRORS):
        file.seek(0)
        return _TORCH_START.match(file.read(_ZIP_HEAD)) is not None


def read_safetensors_header(path: epath.Path) -> tuple[dict[str, str], dict[str, StoredTensor]]:
    """Reads the header of a safetensors file and nothing else.

    Returns:
        Metadata, and tensors by name; each lies within the file and is as long as its shape says.

    Raises:
        UserError: it is no safetensors file, is cut short or damaged, or holds numbers of a kind
            that no model has, such as complex ones.
    """
    with reading(path), path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(0)
        start = _LENGTH_BYTES + int.from_bytes(file.read(_LENGTH_BYTES), "little")
        if not _LENGTH_BYTES + 2 <= start <= min(size, _MAX_HEADER):
            raise UserError(f"{path} is no safetensors checkpoint, or only a part of one")
        text = file.read(start - _LENGTH_BYTES)
    try:
        header = json.loads(text)
        metadata = dict(header.pop("__metadata__", {}))
        return metadata, {name: _stored(start, size, **each) for name, each in header.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = f"dtype {error}" if isinstance(error, KeyError) else error
        if isinstance(error, TypeError):
            reason = "an entry that describes no tensor"
        raise UserError(
            f"{path} is no safetensors checkpoint of this kind ({reason!s:.200})"
        ) from error


def _stored(
    start: int, size: int, dtype: str, shape: list[int], data_offsets: list[int]
) -> StoredTensor:
    """One entry of the header of a file of `size` bytes whose tensors begin at `start`."""
    kind = _DTYPES[dtype]
    if len(shape) > _MAX_DIMENSIONS:  # their product is a number without end
        raise ValueError(f"a tensor of {len(shape):,} dimensions")
    first, end = (start + offset for offset in map(operator.index, data_offsets))
    if not start <= first <= end <= size or end - first != kind.itemsize * math.prod(shape):
        raise ValueError(f"a tensor of {dtype} {shape} at {data_offsets} of {size - start} bytes")
    # numpy refuses what is no shape, here without memory for it.
    return StoredTensor(kind, np.broadcast_to(np.empty((), kind), shape).shape, first, end)


def _read_safetensors(path: epath.Path) -> dict[str, np.ndarray]:
    """Views of a file: a local one is mapped into memory, one of a bucket is read."""
    _, tensors = read_safetensors_header(path)
    if "://" in str(path):
        data = np.frombuffer(path.read_bytes(), np.uint8)
    else:
        data = np.memmap(path, np.uint8, mode="r")
    return {
        name: data[each.first : each.end].view(each.dtype).reshape(each.shape)
        for name, each in tensors.items()
    }


def _read_npz(path: epath.Path) -> dict[str, np.ndarray]:
    try:
        arrays = read_npz(path)
    except ValueError as error:
        raise UserError(
            f"{path} is no npz of arrays nor a PyTorch file, or only a part of one ({error!s:.200})"
        ) from error
    others = [name for name, value in arrays.items() if not isinstance(value, np.ndarray)]
    if others or not arrays:
        raise UserError(f"{path} is a zip archive of {others[:5]!s:.200}, no npz of arrays")
    return arrays


def _read_msgpack(path: epath.Path) -> dict[str, np.ndarray]:
    try:
        state = serialization.msgpack_restore(read_bytes(path))
        arrays = flatten(state, np.ndarray, "/")
    # What flax and msgpack raise for bytes that they did not write.
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{path} is no checkpoint of flax, or only a part of one ({error!s:.200})"
        ) from error
    if not arrays:
        keys = ", ".join(f"{each!r:.99}" for each in [*state][:9])
        raise UserError(f"{path} holds no array, only {keys}")
    return arrays


_READERS: dict[Format, Callable[[epath.Path], dict[str, np.ndarray]]] = {
    "npz": _read_npz,
    "safetensors": _read_safetensors,
    "torch": functools.partial(read_tensors, flat=False),
    "msgpack": _read_msgpack,
}
