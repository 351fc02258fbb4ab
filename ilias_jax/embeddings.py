"""Embedding files: one a shard, self-describing, whole or absent.

A file is safetensors: `vectors` [N, D] float16 or float32, `numbers` [N] int64, `ids` as UTF-8
bytes joined by newlines, and in the header a `fingerprint` (JSON) of everything that the vectors
depend on.
"""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import safetensors.numpy
from etils import epath

from ilias_jax import atomic
from ilias_jax.blocks import regroup
from ilias_jax.errors import UserError
from ilias_jax.repeats import repeated_ids

Fingerprint = Mapping[str, object]
_FORMAT = "ilias-jax embeddings 1"
_KEY = "ilias_jax"  # one metadata key: safetensors writes several in random order


@dataclasses.dataclass(frozen=True)
class Embeddings:
    """The embeddings of one shard.

    Attributes:
        ids: N image or query ids.
        vectors: [N, D] float16 or float32, L2-normalised before any rounding to float16.
        numbers: [N] int64 positions of the records in their shard, rising.
        fingerprint: model, preprocessing and source that they come from.
        rejected: (id, reason) of images of the shard that have no embedding.
    """

    ids: tuple[str, ...]
    vectors: np.ndarray
    numbers: np.ndarray
    fingerprint: Fingerprint
    rejected: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        """Raises ValueError on shapes, dtypes, ids or values that no file may hold."""
        if self.vectors.ndim != 2 or len(self.ids) != len(self.vectors):
            raise ValueError(f"{len(self.ids)} ids for vectors of shape {self.vectors.shape}")
        if self.vectors.dtype not in (np.float16, np.float32):
            raise ValueError(f"vectors are {self.vectors.dtype}, not float16 or float32")
        if self.numbers.shape != (len(self.ids),) or (np.diff(self.numbers) <= 0).any():
            raise ValueError("record numbers must rise, one for every id")
        if len(set(self.ids)) != len(self.ids) or any("\n" in name for name in self.ids):
            raise ValueError("ids repeat or contain a newline")
        if "" in self.ids:
            raise ValueError("an id is empty")
        bad = np.flatnonzero(~np.isfinite(self.vectors).all(axis=1))
        if bad.size:
            raise ValueError(f"{bad.size} vectors are not finite, first {self.ids[bad[0]]}")


def canonical_json(fingerprint: Fingerprint) -> str:
    """The fingerprint as text with sorted keys: equal exactly when the fingerprints are."""
    return json.dumps(fingerprint, sort_keys=True, allow_nan=False)


def short_hash(fingerprint: Fingerprint) -> str:
    """Twelve hexadecimal digits of the fingerprint's sha256, for a folder's name."""
    return hashlib.sha256(canonical_json(fingerprint).encode()).hexdigest()[:12]


def write(path: epath.Path, embeddings: Embeddings) -> None:
    """Writes a file under a temporary name, then renames it: what exists is complete."""
    ids = np.frombuffer("\n".join(embeddings.ids).encode(), np.uint8)
    header = {
        "format": _FORMAT,
        "fingerprint": embeddings.fingerprint,
        "rejected": embeddings.rejected,
    }
    tensors = {
        "vectors": np.ascontiguousarray(embeddings.vectors),
        "numbers": np.asarray(embeddings.numbers, np.int64),
        "ids": ids,
    }
    data = safetensors.numpy.save(tensors, {_KEY: canonical_json(header)})
    atomic.write_bytes(path, data)


def _header(data: bytes, path: epath.Path) -> dict[str, Any]:
    """Our part of the header in a file's first bytes."""
    try:
        length = int.from_bytes(data[:8], "little")
        header = json.loads(json.loads(data[8 : 8 + length])["__metadata__"][_KEY])
        found = header["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is no embedding file of ilias-jax; remove it") from error
    if found != _FORMAT:
        raise UserError(f"{path} has format {found!r}, not {_FORMAT!r}; remove it")
    return header


def _read_start(path: epath.Path) -> bytes:
    """The bytes of a file up to the end of its header."""
    with path.open("rb") as file:
        start = file.read(8)
        # A foreign file may claim a length that no memory holds.
        length = min(int.from_bytes(start, "little"), path.stat().length)
        return start + file.read(length)


def read_fingerprint(path: epath.Path) -> Fingerprint:
    """The fingerprint alone, without reading the vectors."""
    return _header(_read_start(path), path)["fingerprint"]


def read_shape(path: epath.Path) -> tuple[int, int]:
    """(N, D) of the vectors, without reading them; D may be 0 where N is."""
    start = _read_start(path)
    _header(start, path)
    num_rows, dim = json.loads(start[8:])["vectors"]["shape"]
    return num_rows, dim


def read_num_rows(path: epath.Path) -> int:
    """The number of embeddings alone, without reading the vectors."""
    return read_shape(path)[0]


def read_rejected(path: epath.Path) -> list[tuple[str, str]]:
    """(id, reason) of the images without an embedding, without reading the vectors."""
    return [(name, reason) for name, reason in _header(_read_start(path), path)["rejected"]]


def _read_tensor(path: epath.Path, name: str) -> bytes:
    """The bytes of one tensor of a file, without reading the others."""
    start = _read_start(path)
    _header(start, path)
    first, end = json.loads(start[8:])[name]["data_offsets"]
    with path.open("rb") as file:
        file.seek(len(start) + first)
        data = file.read(end - first)
    if len(data) != end - first:
        raise UserError(f"{path} is damaged (it is cut short); remove it and run again")
    return data


def read_ids(path: epath.Path) -> list[str]:
    """The ids alone, without reading the vectors."""
    text = _read_tensor(path, "ids").decode()
    return text.split("\n") if text else []


def read_numbers(path: epath.Path) -> np.ndarray:
    """The record numbers [N] int64 alone, without reading the vectors."""
    return np.frombuffer(_read_tensor(path, "numbers"), np.int64)


def read_rows(path: epath.Path, places: np.ndarray) -> np.ndarray:
    """Some of the vectors [n, D], in the stored dtype, without reading the others.

    Args:
        path: of the file.
        places: [n] rows of the file, best in rising order.
    """
    start = _read_start(path)
    _header(start, path)
    entry = json.loads(start[8:])["vectors"]
    dtype, dim = {"F16": np.float16, "F32": np.float32}[entry["dtype"]], entry["shape"][1]
    rows = np.empty((len(places), dim), dtype)
    first, size = len(start) + entry["data_offsets"][0], dim * rows.itemsize
    with path.open("rb") as file:
        for row, place in zip(rows, places, strict=True):
            file.seek(first + int(place) * size)
            data = file.read(size)
            if len(data) != size:
                raise UserError(f"{path} is damaged (it is cut short); remove it and run again")
            row[:] = np.frombuffer(data, dtype)
    return rows


def read(path: epath.Path) -> Embeddings:
    """Reads a file.

    Raises:
        UserError: the file is truncated or no embedding file.
    """
    data = path.read_bytes()
    header = _header(data, path)
    try:
        tensors = safetensors.numpy.load(data)
    except safetensors.SafetensorError as error:
        raise UserError(f"{path} is damaged ({error}); remove it and run again") from error
    text = tensors["ids"].tobytes().decode()
    return Embeddings(
        tuple(text.split("\n")) if text else (),
        tensors["vectors"],
        tensors["numbers"],
        header["fingerprint"],
        tuple((name, reason) for name, reason in header["rejected"]),
    )


@dataclasses.dataclass(frozen=True)
class EmbeddingFiles:
    """Several files as one sequence of rows, read one file at a time.

    Attributes:
        paths: the files, in the order of their rows.
    """

    paths: Sequence[epath.Path]

    def __iter__(self) -> Iterator[Embeddings]:
        """Yields file after file."""
        return map(read, self.paths)

    def num_rows(self) -> int:
        """N, from the files' headers."""
        return sum(map(read_num_rows, self.paths))

    def ids(self) -> list[str]:
        """All ids in row order."""
        return [name for path in self.paths for name in read_ids(path)]

    def num_repeated(self) -> int:
        """How many ids come again in a later file; within a file they never do."""
        return len(repeated_ids([functools.partial(read_ids, path) for path in self.paths]))

    def rejected(self) -> list[tuple[str, str]]:
        """(id, reason) of all images without an embedding."""
        return [pair for path in self.paths for pair in read_rejected(path)]

    def vectors(self) -> np.ndarray:
        """All rows at once, [N, D] in the stored dtype."""
        parts = [part.vectors for part in self]
        # A shard without one readable image has no D: its vectors are [0, 0].
        return np.concatenate([part for part in parts if len(part)] or parts)

    def rows(self, indices: np.ndarray) -> np.ndarray:
        """Any rows, in the stored dtype; only the files that hold one are opened, each once.

        Args:
            indices: [...] rows of the sequence, repeated or not.

        Returns:
            [..., D].

        Raises:
            IndexError: an index is not in [0, N).
        """
        wanted, back = np.unique(indices, return_inverse=True)
        starts = np.cumsum([0, *map(read_num_rows, self.paths)])
        if wanted.size and (wanted[0] < 0 or wanted[-1] >= starts[-1]):
            raise IndexError(f"rows {wanted[0]}..{wanted[-1]} of {starts[-1]}")
        ends = np.searchsorted(wanted, starts)
        parts = [
            read_rows(path, wanted[low:high] - start)
            for path, start, low, high in zip(self.paths, starts, ends, ends[1:], strict=False)
            if low < high
        ]
        found = np.concatenate(parts) if parts else np.zeros((0, 0), np.float32)
        return found[back.reshape(np.shape(indices))]

    def blocks(self, num_rows: int) -> Iterator[np.ndarray]:
        """Yields all rows in order as blocks [num_rows, D]; the last one may be shorter."""
        return regroup((part.vectors for part in self), num_rows)
