"""The members of PyTorch's zip archives, read with their checksums or as views of the whole."""

import io
import struct
import zipfile
from typing import BinaryIO

from ilias_jax.errors import UserError
from ilias_jax.torch_files.arrays import Buffer
from ilias_jax.torch_files.unpickle import PickleError

_MAX_PICKLE = 1 << 26  # bytes; that of a model of 10,000 tensors takes 2 MB
_ENCRYPTED = 1
# Before a member's bytes: a signature, fields that the directory repeats, the lengths of its name
# and of an extra field, and these two.
_HEADER = struct.Struct("<4s22xHH")
_SIGNATURE = b"PK\x03\x04"


class Archive:
    """An archive that `torch.save` wrote.

    Args:
        file: the archive.
        size: of it in bytes.
        place: its name, for messages.
        content: all of its bytes, of which storages are to be views; None to read storages, and to
            compare their checksums.

    Raises:
        UserError: it is a TorchScript archive.
        PickleError: it is damaged.
    """

    def __init__(self, file: BinaryIO, size: int, place: str, content: memoryview | None) -> None:
        self._zip, self._size, self._place = zipfile.ZipFile(file), size, place
        self._content = content
        self._names = self._zip.namelist()
        pickles = [name for name in self._names if name.endswith("/data.pkl")]
        if len(pickles) != 1 or len(set(self._names)) != len(self._names):
            raise PickleError("it must hold one data.pkl and no name twice")
        self._folder = pickles[0].removesuffix("data.pkl")
        if f"{self._folder}constants.pkl" in self._names:
            raise UserError(
                f"{place} is a TorchScript archive, a program together with its weights, in which "
                "OpenAI published its CLIP models. Programs are not read: give the same weights as "
                "a .safetensors file, such as open_clip's on huggingface.co, or save the "
                "state_dict() of the loaded model with torch.save"
            )

    def pickle(self) -> io.BytesIO:
        """The pickle that describes the tensors."""
        return io.BytesIO(self._zip.read(self._info("data.pkl", _MAX_PICKLE)))

    def byte_order(self) -> str:
        """Of the storages: "little" or "big"."""
        if f"{self._folder}byteorder" not in self._names:
            return "little"
        order = self._zip.read(self._info("byteorder", 6)).decode("latin-1")
        if order not in ("little", "big"):
            raise PickleError(f"its byte order is {order!r}")
        return order

    def data(self, key: str, wanted: int) -> Buffer:
        """The bytes of a storage, which must be so many."""
        info = self._info(f"data/{key}", wanted)
        if info.file_size != wanted:
            raise PickleError(f"data/{key} has {info.file_size} bytes, not {wanted}")
        return self._zip.read(info) if self._content is None else self._view(info)

    def _view(self, info: zipfile.ZipInfo) -> memoryview:
        assert self._content is not None
        start = info.header_offset + _HEADER.size
        header = self._content[info.header_offset : start]
        if info.header_offset < 0 or len(header) < _HEADER.size:
            raise PickleError(f"{info.filename} lies outside of it")
        signature, name, extra = _HEADER.unpack(header)
        first = start + name + extra
        view = self._content[first : first + info.file_size]
        if signature != _SIGNATURE or len(view) != info.file_size:
            raise PickleError(f"{info.filename} is not where its directory says")
        return view

    def _info(self, name: str, most: int) -> zipfile.ZipInfo:
        """The entry of a member that has at most so many bytes."""
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
        return info
