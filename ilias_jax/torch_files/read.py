"""Both forms of PyTorch's files: the zip archive of today and the plain stream of before 1.6.

The archive holds `<name>/data.pkl`, a pickle that describes the tensors, `<name>/data/<key>`, the
bytes of each storage, never compressed, and `<name>/byteorder`. The stream is five pickles (magic
number, version, machine, object, keys) and then every storage as its length and its bytes.
"""

import io
import zipfile
from typing import BinaryIO, Literal

import numpy as np
from etils import epath

from ilias_jax.errors import UserError
from ilias_jax.torch_files.arrays import check_tensors, make_arrays, native, num_bytes
from ilias_jax.torch_files.unpickle import PickleError, unpickle

_ZIP_START = b"PK\x03\x04"
_MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of a stream
_VERSION = 1001  # and the second
_MAX_PICKLE = 1 << 26  # bytes; that of a model of 10,000 tensors takes 2 MB
_ENCRYPTED = 1


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
    if not path.exists() or path.is_dir():
        raise UserError(f"{path}: no such file")
    size = path.stat().length
    with path.open("rb") as file:
        is_zip = file.read(len(_ZIP_START)) == _ZIP_START
        file.seek(0)
        try:
            if is_zip:
                return _Archive(file, size, str(path)).read()
            return _read_stream(file.read(), str(path))
        # PickleError is a ValueError; a damaged directory makes zipfile raise all the others.
        except (ValueError, OSError, EOFError, NotImplementedError, zipfile.BadZipFile) as error:
            raise UserError(f"{path} is damaged or no file of torch.save: {error}") from error


class _Archive:
    """The zip form."""

    def __init__(self, file: BinaryIO, size: int, place: str) -> None:
        self._zip, self._size, self._place = zipfile.ZipFile(file), size, place
        names = self._zip.namelist()
        pickles = [name for name in names if name.endswith("/data.pkl")]
        if len(pickles) != 1 or len(set(names)) != len(names):
            raise PickleError("it must hold one data.pkl and no name twice")
        self._folder = pickles[0].removesuffix("data.pkl")

    def read(self) -> dict[str, np.ndarray]:
        """All tensors."""
        pickled = self._member("data.pkl", _MAX_PICKLE)
        tensors = check_tensors(unpickle(io.BytesIO(pickled), self._place), self._place)
        has_order = f"{self._folder}byteorder" in self._zip.namelist()
        order = self._member("byteorder", 6).decode("latin-1") if has_order else "little"
        if order not in ("little", "big"):
            raise PickleError(f"its byte order is {order!r}")
        storages = {}
        for storage in {tensor.storage for tensor in tensors.values()}:
            wanted = num_bytes(storage)
            data = self._member(f"data/{storage.key}", wanted)
            if len(data) != wanted:
                raise PickleError(f"data/{storage.key} has {len(data)} bytes, not {wanted}")
            storages[storage] = native(data, storage, order)
        return make_arrays(tensors, storages)

    def _member(self, name: str, most: int) -> bytes:
        """The bytes of a member that has at most so many."""
        try:
            info = self._zip.getinfo(self._folder + name)
        except KeyError as error:
            raise PickleError(f"it has no {name}") from error
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & _ENCRYPTED:
            raise UserError(
                f"{self._place}: refused: {name} is compressed or encrypted, which torch.save "
                "never does"
            )
        if not info.file_size == info.compress_size <= min(most, self._size):
            raise PickleError(f"{name} claims {info.file_size:,} bytes, at most {most:,} fit")
        return self._zip.read(info)


def _read_stream(data: bytes, place: str) -> dict[str, np.ndarray]:
    """The form before 1.6."""
    stream = io.BytesIO(data)
    if unpickle(stream, place) != _MAGIC or unpickle(stream, place) != _VERSION:
        raise PickleError("it does not begin as one")
    machine = unpickle(stream, place)
    little = machine.get("little_endian") if isinstance(machine, dict) else None
    if not isinstance(little, bool):
        raise PickleError("it does not say its byte order")
    order: Literal["little", "big"] = "little" if little else "big"
    tensors = check_tensors(unpickle(stream, place), place)
    expected = {tensor.storage for tensor in tensors.values()}
    by_key = {storage.key: storage for storage in expected}
    keys = unpickle(stream, place)
    if len(by_key) != len(expected) or sorted(map(str, keys)) != sorted(by_key):
        raise PickleError("its tensors and its storages do not fit")
    storages = {}
    for storage in (by_key[key] for key in keys):
        start = stream.tell() + 8
        found = int.from_bytes(stream.read(8), order)
        end = stream.seek(start + num_bytes(storage))
        if found != storage.num_elements or end > len(data):
            raise PickleError(f"storage {storage.key} is not of {storage.num_elements} elements")
        storages[storage] = native(memoryview(data)[start:end], storage, order)
    return make_arrays(tensors, storages)
