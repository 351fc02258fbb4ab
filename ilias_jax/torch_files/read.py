"""Both forms of PyTorch's files: the zip archive of today and the plain stream of before 1.6.

The archive holds `<name>/data.pkl`, a pickle that describes the tensors, `<name>/data/<key>`, the
bytes of each storage, never compressed, and `<name>/byteorder`. The stream is five pickles (magic
number, version, machine, object, keys) and then every storage as its length and its bytes.
"""

import io
import mmap
import zipfile
from collections.abc import Callable
from typing import Any, BinaryIO, Literal, cast

import numpy as np
from etils import epath

from ilias_jax.errors import UserError
from ilias_jax.torch_files.archive import Archive
from ilias_jax.torch_files.arrays import (
    Buffer,
    check_tensors,
    make_arrays,
    native,
    nested_tensors,
    num_bytes,
)
from ilias_jax.torch_files.opaque import OpaqueMachine
from ilias_jax.torch_files.unpickle import Machine, PickleError, StorageRef, TensorRef, unpickle

_ZIP_START = b"PK\x03\x04"
_MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of a stream
_VERSION = 1001  # and the second
_Content = bytes | mmap.mmap
_Select = Callable[[Any, str], dict[str, TensorRef]]


def read_tensors(path: epath.Path) -> dict[str, np.ndarray]:
    """Reads a flat dictionary of tensors, such as a module's `state_dict()`.

    Nothing of the file is executed. Memory is bounded by the file's own size: a storage must be
    there byte for byte, and no tensor may have more elements than its storage.

    Args:
        path: of a file that `torch.save` wrote, in either form.

    Returns:
        Arrays by name, read-only, of the dtype in the file; tensors that share a storage share it.

    Raises:
        UserError: there is no such file, it is damaged, of another kind, or it holds or asks for
            anything but tensors.
    """
    return _read(path, Machine, check_tensors, mapped=False)


def read_nested(path: epath.Path) -> dict[str, np.ndarray]:
    """Reads all tensors in a checkpoint's dictionaries, however deep; nothing is executed.

    Numbers, texts and harmless objects such as the options of a training run are left out, and so
    is everything in lists and tuples.

    Args:
        path: of a file that `torch.save` wrote, in either form. A local one is mapped into memory:
            of a tensor that nobody looks at, such as those of an optimizer, no byte is read.

    Returns:
        Arrays by the keys on the way to them, joined by ".", such as `state_dict.fc.weight`;
        otherwise as from `read_tensors`.

    Raises:
        UserError: there is no such file, it is damaged, of another kind, holds no tensor, or names
            a class or function that is not known to be harmless.
    """
    return _read(path, OpaqueMachine, nested_tensors, mapped=True)


def _read(
    path: epath.Path, machine: type[Machine], select: _Select, mapped: bool
) -> dict[str, np.ndarray]:
    """Reads a file of either form.

    Args:
        path: of the file.
        machine: reads the pickle that describes the tensors.
        select: takes the tensors out of what the pickle holds.
        mapped: to map the file rather than to read it; the checksums of an archive are then not
            compared, because that takes all of its bytes.
    """
    if not path.exists() or path.is_dir():
        raise UserError(f"{path}: no such file")
    size, place = path.stat().length, str(path)
    try:
        with path.open("rb") as file:
            is_zip = file.read(len(_ZIP_START)) == _ZIP_START
            if is_zip:
                archive = Archive(file, size, place, memoryview(_map(path)) if mapped else None)
                return _read_archive(archive, machine(place), select, place)
        content = _map(path) if mapped else path.read_bytes()
        return _Stream(content, place).read(machine(place), select)
    # PickleError is a ValueError; a damaged directory makes zipfile raise all the others.
    except (ValueError, OSError, EOFError, NotImplementedError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is damaged or no file of torch.save: {error}") from error


def _map(path: epath.Path) -> _Content:
    """The bytes of a file, of a local one without reading them."""
    if "://" in str(path):
        return path.read_bytes()
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _read_archive(
    archive: Archive, machine: Machine, select: _Select, place: str
) -> dict[str, np.ndarray]:
    """The form of today."""
    tensors = select(machine.run(archive.pickle()), place)
    order = archive.byte_order()
    storages: dict[StorageRef, Buffer] = {}
    for storage in {tensor.storage for tensor in tensors.values()}:
        storages[storage] = native(archive.data(storage.key, num_bytes(storage)), storage, order)
    return make_arrays(tensors, storages)


class _Stream:
    """The form before 1.6.

    Args:
        content: all bytes of the file.
        place: its name, for messages.
    """

    def __init__(self, content: _Content, place: str) -> None:
        # A mapping reads like a file, but unlike one never reserves memory for what is not there.
        stream = io.BytesIO(content) if isinstance(content, bytes) else content
        self._stream = cast(BinaryIO, stream)
        self._data, self._place = memoryview(content), place

    def read(self, machine: Machine, select: _Select) -> dict[str, np.ndarray]:
        """All tensors."""
        stream, place = self._stream, self._place
        if unpickle(stream, place) != _MAGIC or unpickle(stream, place) != _VERSION:
            raise PickleError("it does not begin as one")
        header = unpickle(stream, place)
        little = header.get("little_endian") if isinstance(header, dict) else None
        if not isinstance(little, bool):
            raise PickleError("it does not say its byte order")
        tensors = select(machine.run(stream), place)
        storages = self._storages(machine.storages, "little" if little else "big")
        return make_arrays(tensors, storages)

    def _storages(
        self, expected: set[StorageRef], order: Literal["little", "big"]
    ) -> dict[StorageRef, Buffer]:
        """The bytes of every storage that the pickle names; all of them must be there."""
        by_key = {storage.key: storage for storage in expected}
        keys = unpickle(self._stream, self._place)
        if len(by_key) != len(expected) or sorted(map(str, keys)) != sorted(by_key):
            raise PickleError("its tensors and its storages do not fit")
        storages: dict[StorageRef, Buffer] = {}
        end = self._stream.tell()
        for storage in (by_key[key] for key in keys):
            start = end + 8
            found = int.from_bytes(self._data[end:start], order)
            end = start + num_bytes(storage)
            if found != storage.num_elements or end > len(self._data):
                raise PickleError(
                    f"storage {storage.key} is not of {storage.num_elements} elements"
                )
            storages[storage] = native(self._data[start:end], storage, order)
        return storages
