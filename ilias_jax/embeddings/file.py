"""Embedding files: one a shard, self-describing, whole or absent.

A file is safetensors: `vectors` [N, D] float16 or float32, `numbers` [N] int64, `ids` as UTF-8
bytes joined by newlines, and in the header a `fingerprint` (JSON) of everything that the vectors
depend on.
"""

import dataclasses
import hashlib
import json

import numpy as np
import safetensors.numpy
from etils import epath

from ilias_jax import atomic
from ilias_jax.embeddings.header import (
    FORMAT,
    KEY,
    Fingerprint,
    Header,
    metadata_of,
    open_file,
    read_header,
    read_metadata,
)
from ilias_jax.embeddings.row_reader import read_into
from ilias_jax.errors import UserError


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
        "format": FORMAT,
        "fingerprint": embeddings.fingerprint,
        "rejected": embeddings.rejected,
    }
    tensors = {
        "vectors": np.ascontiguousarray(embeddings.vectors),
        "numbers": np.asarray(embeddings.numbers, np.int64),
        "ids": ids,
    }
    data = safetensors.numpy.save(tensors, {KEY: canonical_json(header)})
    atomic.write_bytes(path, data)


def read_fingerprint(path: epath.Path) -> Fingerprint:
    """The fingerprint alone, without reading the vectors."""
    return read_metadata(path)["fingerprint"]


def read_rejected(path: epath.Path) -> list[tuple[str, str]]:
    """(id, reason) of the images without an embedding, without reading the vectors."""
    return [(name, reason) for name, reason in read_metadata(path)["rejected"]]


def _read_bytes(path: epath.Path, first: int, end: int) -> bytearray:
    """Some bytes of a file."""
    data = bytearray(end - first)
    with open_file(path) as file:
        read_into(file, first, memoryview(data), path)
    return data


def read_ids(path: epath.Path, header: Header | None = None) -> list[str]:
    """The ids alone, without reading the vectors; `header` is the file's if it is known."""
    header = header or read_header(path)
    text = _read_bytes(path, *header.ids).decode()
    ids = text.split("\n") if text else []
    if len(ids) != header.num_rows:
        raise UserError(
            f"{path} is damaged ({len(ids):,} ids for {header.num_rows:,} vectors); remove it and "
            "run again"
        )
    return ids


def read_numbers(path: epath.Path) -> np.ndarray:
    """The record numbers [N] int64 alone, without reading the vectors."""
    return np.frombuffer(_read_bytes(path, *read_header(path).numbers), np.int64)


def read(path: epath.Path) -> Embeddings:
    """Reads a file.

    Raises:
        UserError: the file is truncated or no embedding file.
    """
    data = path.read_bytes()
    header = metadata_of(data, path)
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
