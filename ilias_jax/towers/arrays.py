"""The arrays in a file of weights, whichever library wrote it; its first bytes tell the format."""

import dataclasses
import zipfile
import zlib
from typing import IO, Literal

import numpy as np
from etils import epath
from flax import serialization

from ilias_jax.errors import UserError
from ilias_jax.torch_files import read_nested
from ilias_jax.torch_files.nested import flatten
from ilias_jax.towers.tensor_file import read_tensors

Format = Literal["npz", "safetensors", "torch", "msgpack"]
# First byte of a msgpack map -> bytes before its first key. One of no entries begins with 0x80, as
# pickles do.
_MAPS = {**dict.fromkeys(range(0x81, 0x90), 1), 0xDE: 3, 0xDF: 5}
_TEXTS = (*range(0xA0, 0xC0), 0xD9, 0xDA, 0xDB)  # first bytes of a text
_READ = (
    "read are an npz, a .safetensors, a checkpoint of torch.save (.pth, .pt, .pth.tar) and one of "
    "flax (msgpack)"
)


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


def read_arrays(path: epath.PathLike) -> Arrays:
    """Reads all arrays of a file; numbers, texts and objects beside them are left out.

    Args:
        path: of the file. The arrays of a local safetensors or torch file are views of it, of which
            nothing is read before it is looked at.

    Raises:
        UserError: there is no such file, it is of no format that is read, or it is damaged.
    """
    path = epath.Path(path)
    if not path.exists() or path.is_dir():
        raise UserError(f"{path}: no such file of weights; {_READ}")
    found = format_of(path)
    if found == "unknown":
        raise UserError(f"{path} is no file of weights, or only a part of one; {_READ}")
    readers = {"npz": _read_npz, "safetensors": read_tensors, "torch": read_nested}
    return Arrays(found, readers.get(found, _read_msgpack)(path))


def format_of(path: epath.Path) -> Format | Literal["unknown"]:
    """What a file is, by its first bytes."""
    with path.open("rb") as file:
        start = file.read(9)
        if start.startswith(b"PK"):
            return "torch" if zipfile.is_zipfile(file) and _is_torch_zip(file) else "npz"
    # A safetensors file begins with the length of its header, eight bytes of which the first may be
    # any, a pickle's too, and goes on with the header's JSON.
    if start.endswith(b"{"):
        return "safetensors"
    if start.startswith(b"\x80"):
        return "torch"
    return "msgpack" if _is_map(start) else "unknown"


def _is_map(start: bytes) -> bool:
    """Whether a file begins as a msgpack map whose first key is a text."""
    head = _MAPS.get(start[0]) if start else None
    return head is not None and len(start) > head and start[head] in _TEXTS


def _is_torch_zip(file: IO[bytes]) -> bool:
    """Whether a zip archive is a PyTorch file: a pickle beside folders of data."""
    try:
        with zipfile.ZipFile(file) as archive:
            return any(name.endswith("/data.pkl") for name in archive.namelist())
    except (zipfile.BadZipFile, NotImplementedError):
        return False  # whoever reads it as an npz says what is wrong


def _read_npz(path: epath.Path) -> dict[str, np.ndarray]:
    """All arrays of an npz; nothing that is pickled.

    Raises:
        UserError: it is damaged, holds pickled objects, or is another zip archive.
    """
    with path.open("rb") as file:
        try:
            with np.load(file, allow_pickle=False) as archive:
                arrays = dict(archive)
        except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise UserError(
                f"{path} is no npz of arrays nor a PyTorch file, or only a part of one ({error})"
            ) from error
    others = [name for name, value in arrays.items() if not isinstance(value, np.ndarray)]
    if others or not arrays:
        raise UserError(f"{path} is a zip archive of {others[:5]}, no npz of arrays")
    return arrays


def _read_msgpack(path: epath.Path) -> dict[str, np.ndarray]:
    """All arrays of a flax checkpoint, such as a train state's.

    Raises:
        UserError: it is damaged or holds no array.
    """
    try:
        state = serialization.msgpack_restore(path.read_bytes())
        arrays = flatten(state, np.ndarray, "/")
    # What flax and msgpack raise for bytes that they did not write.
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{path} is no checkpoint of flax, or only a part of one ({error})"
        ) from error
    if not arrays:
        raise UserError(f"{path} holds no array, only {', '.join(map(repr, [*state][:9]))}")
    return arrays
