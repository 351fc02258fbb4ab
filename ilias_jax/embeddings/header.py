"""The header of an embedding file: where its tensors are, checked against the file's length."""

import dataclasses
import json
from collections.abc import Mapping
from typing import IO, Any

import numpy as np
from etils import epath

from ilias_jax.errors import UserError

Fingerprint = Mapping[str, object]
FORMAT = "ilias-jax embeddings 1"
KEY = "ilias_jax"  # one metadata key: safetensors writes several in random order
_FIRST = f'{{"__metadata__":{{"{KEY}"'.encode()
_DTYPES: dict[str, np.dtype] = {"F16": np.dtype(np.float16), "F32": np.dtype(np.float32)}


@dataclasses.dataclass(frozen=True)
class Header:
    """What is known of an embedding file before its tensors are read.

    Attributes:
        path: of the file.
        fingerprint: model, preprocessing and source that the vectors come from.
        num_rows: N.
        dim: D of the vectors; it may be 0 where N is.
        dtype: float16 or float32, of the vectors.
        vectors: first and last + 1 byte of the vectors in the file.
        numbers: likewise of the record numbers.
        ids: likewise of the ids.
    """

    path: epath.Path
    fingerprint: Fingerprint
    num_rows: int
    dim: int
    dtype: np.dtype
    vectors: tuple[int, int]
    numbers: tuple[int, int]
    ids: tuple[int, int]

    @property
    def row_bytes(self) -> int:
        """Bytes of one vector."""
        return self.dim * self.dtype.itemsize


def open_file(path: epath.Path) -> IO[bytes]:
    """Opens a file to be read in large pieces: a local one without a buffer in between.

    Raises:
        UserError: there is no such file, or it is a folder.
    """
    try:
        if "://" in str(path):
            return path.open("rb")
        return open(path, "rb", buffering=0)
    except (FileNotFoundError, IsADirectoryError) as error:
        what = "is a folder" if isinstance(error, IsADirectoryError) else "no such file"
        raise UserError(f"{path}: {what}; expected an embedding file") from error


def read_header(path: epath.Path) -> Header:
    """Reads the header of a file and compares it with the file's length.

    Raises:
        UserError: there is no such file, it is no embedding file, or it is cut short or damaged.
    """
    start, size = _read_start(path)
    fingerprint = metadata_of(start, path)["fingerprint"]
    try:
        tensors = json.loads(start[8:])
        entry = tensors["vectors"]
        num_rows, dim = entry["shape"]
        dtype = _DTYPES[entry["dtype"]]
        spans = {
            name: (len(start) + first, len(start) + end)
            for name in ("vectors", "numbers", "ids")
            for first, end in [tensors[name]["data_offsets"]]
        }
        rows_end = spans["vectors"][0] + num_rows * dim * dtype.itemsize
        if rows_end != spans["vectors"][1] or spans["numbers"][1] - spans["numbers"][0] != (
            8 * num_rows
        ):
            raise ValueError("its tensors do not fit their shapes")
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error}); remove it and run again") from error
    end = max(end for _, end in spans.values())
    if size < end:
        raise _cut_short(path, size, end)
    return Header(path, fingerprint, num_rows, dim, dtype, **spans)


def read_metadata(path: epath.Path) -> dict[str, Any]:
    """Our part of a file's header: "format", "fingerprint" and "rejected"."""
    return metadata_of(_read_start(path)[0], path)


def metadata_of(data: bytes, path: epath.Path) -> dict[str, Any]:
    """Our part of the header in a file's first bytes."""
    length = int.from_bytes(data[:8], "little")
    try:
        header = json.loads(json.loads(data[8 : 8 + length])["__metadata__"][KEY])
        found = header["format"]
    except (ValueError, KeyError, TypeError) as error:
        if len(data) < 8 + length and data[8:].startswith(_FIRST):
            raise _cut_short(path, len(data), 8 + length) from error
        raise UserError(f"{path} is no embedding file of ilias-jax; remove it") from error
    if found != FORMAT:
        raise UserError(f"{path} has format {found!r}, not {FORMAT!r}; remove it")
    return header


def _cut_short(path: epath.Path, size: int, whole: int) -> UserError:
    return UserError(
        f"{path} is cut short: {size:,} of {whole:,} bytes; remove it and run again, or copy it "
        "again"
    )


def _read_start(path: epath.Path) -> tuple[bytes, int]:
    """The bytes of a file up to the end of its header, and the length of the file."""
    with open_file(path) as file:
        size = file.seek(0, 2)
        file.seek(0)
        start = file.read(8)
        # A foreign file may claim a length that no memory holds.
        length = min(int.from_bytes(start, "little"), size)
        return start + file.read(length), size
