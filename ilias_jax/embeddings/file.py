"""Embedding files: one a shard, self-describing, whole or absent.

A file is safetensors: `vectors` [N, D] float16, float32 or uint8, `numbers` [N] int64, `ids` as
UTF-8 bytes joined by newlines, and in the header a `fingerprint` (JSON) of everything that the
vectors depend on, and checksums of the vectors. The header is read and compared with the file's
length before any tensor is, and rows are read straight into arrays. Whatever is read of whole
stretches of the vectors, as by every search and index, is compared with their checksums.
"""

import contextlib
import dataclasses
import hashlib
import json
import zlib
from collections.abc import Mapping
from typing import IO, Any

import numpy as np
import safetensors.numpy
from etils import epath

from ilias_jax.embeddings.sources import runs
from ilias_jax.errors import UserError
from ilias_jax.files import reading, write_bytes

Fingerprint = Mapping[str, object]
FORMAT = "ilias-jax embeddings 1"
KEY = "ilias_jax"  # one metadata key: safetensors writes several in random order
_STRETCH = 2**22  # bytes of the vectors that have a checksum of their own
_FIRST = f'{{"__metadata__":{{"{KEY}"'.encode()
_DTYPES: dict[str, np.dtype] = {
    "F16": np.dtype(np.float16),
    "F32": np.dtype(np.float32),
    "U8": np.dtype(np.uint8),
}
# Rows between two wanted ones are read along where that is cheaper than another read.
_GAP_LOCAL, _GAP_REMOTE = 2**14, 2**20
_RUN_BYTES = 2**22  # of one read with gaps: what a scratch array holds


@dataclasses.dataclass(frozen=True)
class Embeddings:
    """The embeddings of one shard.

    Attributes:
        ids: N image or query ids.
        vectors: [N, D] float16 or float32, L2-normalised before any rounding to float16; or rows
            of local descriptors as `rerank.descriptors` packs them, which may be uint8.
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
        if self.vectors.dtype not in _DTYPES.values():
            raise ValueError(f"vectors are {self.vectors.dtype}, not float16, float32 or uint8")
        if self.numbers.shape != (len(self.ids),) or (np.diff(self.numbers) <= 0).any():
            raise ValueError("record numbers must rise, one for every id")
        if len(set(self.ids)) != len(self.ids) or any("\n" in name for name in self.ids):
            raise ValueError("ids repeat or contain a newline")
        if "" in self.ids:
            raise ValueError("an id is empty")
        bad = np.flatnonzero(~np.isfinite(self.vectors).all(axis=1))
        if bad.size:
            raise ValueError(f"{bad.size} vectors are not finite, first {self.ids[bad[0]]}")


@dataclasses.dataclass(frozen=True)
class Header:
    """What is known of an embedding file before its tensors are read.

    Attributes:
        path: of the file.
        fingerprint, rejected: as in `Embeddings`.
        num_rows: N.
        dim: D of the vectors; it may be 0 where N is.
        dtype: float16, float32 or uint8, of the vectors.
        vectors, numbers, ids: first and last + 1 byte of each in the file.
        checksums: CRC-32 of every 4 MiB of the vectors; None in a file that was written without.
    """

    path: epath.Path
    fingerprint: Fingerprint
    rejected: tuple[tuple[str, str], ...]
    num_rows: int
    dim: int
    dtype: np.dtype
    vectors: tuple[int, int]
    numbers: tuple[int, int]
    ids: tuple[int, int]
    checksums: tuple[int, ...] | None

    @property
    def row_bytes(self) -> int:
        """Bytes of one vector."""
        return self.dim * self.dtype.itemsize


def canonical_json(fingerprint: Fingerprint) -> str:
    """The fingerprint as text with sorted keys: equal exactly when the fingerprints are."""
    return json.dumps(fingerprint, sort_keys=True, allow_nan=False)


def short_hash(fingerprint: Fingerprint) -> str:
    """Twelve hexadecimal digits of the fingerprint's sha256, for a folder's name."""
    return hashlib.sha256(canonical_json(fingerprint).encode()).hexdigest()[:12]


def write(path: epath.Path, embeddings: Embeddings) -> None:
    """Writes a file under a temporary name, then renames it: what exists is complete."""
    vectors = np.ascontiguousarray(embeddings.vectors)
    header = {
        "format": FORMAT,
        "fingerprint": embeddings.fingerprint,
        "rejected": embeddings.rejected,
        "checksums": _checksums(vectors.reshape(-1).view(np.uint8).data),
    }
    tensors = {
        "vectors": vectors,
        "numbers": np.asarray(embeddings.numbers, np.int64),
        "ids": np.frombuffer("\n".join(embeddings.ids).encode(), np.uint8),
    }
    write_bytes(path, safetensors.numpy.save(tensors, {KEY: canonical_json(header)}))


def _checksums(data: memoryview) -> list[int]:
    starts = range(0, len(data), _STRETCH)
    return [zlib.crc32(data[start : start + _STRETCH]) for start in starts]


def read_header(path: epath.Path) -> Header:
    """Reads the header of a file and compares it with the file's length.

    Raises:
        UserError: there is no such file, it is no embedding file, or it is cut short or damaged.
    """
    start, size = _read_start(path)
    metadata = _metadata(start, path)
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
        lengths = {name: end - first for name, (first, end) in spans.items()}
        whole = num_rows * dim * dtype.itemsize, 8 * num_rows
        if (lengths["vectors"], lengths["numbers"]) != whole or min(lengths.values()) < 0:
            raise ValueError("its tensors do not fit their shapes")
        if min(first for first, _ in spans.values()) < len(start):
            raise ValueError("its tensors lie in its header")
        rejected = tuple((name, reason) for name, reason in metadata["rejected"])
        checksums = metadata.get("checksums")
        if checksums is not None and len(checksums) != -(-whole[0] // _STRETCH):
            raise ValueError(f"it has {len(checksums)} checksums for {whole[0]:,} bytes")
        fingerprint = metadata["fingerprint"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _damaged(path, error) from error
    end = max(end for _, end in spans.values())
    if size < end:
        raise _cut_short(path, f"{size:,} of {end:,}")
    sums = None if checksums is None else tuple(checksums)
    return Header(path, fingerprint, rejected, num_rows, dim, dtype, **spans, checksums=sums)


def read_ids(path: epath.Path, header: Header | None = None) -> list[str]:
    """The ids alone; `header` is the file's if it is known."""
    header = header or read_header(path)
    try:
        text = _read_bytes(path, *header.ids).decode()
    except UnicodeDecodeError as error:
        raise _damaged(path, error) from error
    ids = text.split("\n") if text else []
    if len(ids) != header.num_rows:
        raise _damaged(path, f"{len(ids):,} ids for {header.num_rows:,} vectors")
    return ids


def read_numbers(path: epath.Path) -> np.ndarray:
    """The record numbers [N] int64 alone."""
    header = read_header(path)
    return np.frombuffer(_read_bytes(path, *header.numbers), np.int64)


def _metadata(start: bytes, path: epath.Path) -> dict[str, Any]:
    """What `write` has put into the header, from a file's first bytes."""
    length = int.from_bytes(start[:8], "little")
    try:
        header = json.loads(json.loads(start[8:])["__metadata__"][KEY])
        found = header["format"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        if len(start) < 8 + length and start[8:].startswith(_FIRST):
            raise _cut_short(path, f"{len(start):,} of {8 + length:,}") from error
        raise UserError(f"{path} is no embedding file of ilias-jax; remove it") from error
    if found != FORMAT:
        raise UserError(f"{path} has format {str(found)[:80]!r}, not {FORMAT!r}; remove it")
    return header


def _cut_short(path: epath.Path, what: str) -> UserError:
    return UserError(
        f"{path} is cut short: {what} bytes; remove it and run again, or copy it again"
    )


def _damaged(path: epath.Path, why: object) -> UserError:
    return UserError(f"{path} is damaged ({why}); remove it and run again")


def _open(path: epath.Path) -> IO[bytes]:
    """Opens a file to be read in large pieces: a local one without a buffer in between."""
    with reading(path):
        if "://" in str(path):
            return path.open("rb")
        return open(path, "rb", buffering=0)


def _read_start(path: epath.Path) -> tuple[bytes, int]:
    """The bytes of a file up to the end of its header, and the length of the file."""
    with _open(path) as file, reading(path):
        size = file.seek(0, 2)
        file.seek(0)
        start = file.read(8)
        # A foreign file may claim a length that no memory holds.
        length = min(int.from_bytes(start, "little"), size)
        return start + file.read(length), size


def _read_bytes(path: epath.Path, first: int, end: int) -> bytearray:
    data = bytearray(end - first)
    with _open(path) as file:
        _read_into(file, first, memoryview(data), path)
    return data


def _read_into(file: IO[bytes], start: int, target: memoryview, path: epath.Path) -> None:
    """Fills `target` with a file's bytes from `start` on; raises UserError if it ends before."""
    # Files of buckets may have no `readinto`, and may give less than they are asked for.
    readinto, done = getattr(file, "readinto", None), 0
    with reading(path):
        file.seek(start)
        while done < len(target):
            if readinto is not None:
                count = readinto(target[done:])
            else:
                data = file.read(len(target) - done)
                count = len(data)
                target[done : done + count] = data
            if not count:
                raise _cut_short(path, f"it ends at {start + done:,} of {start + len(target):,}")
            done += count


class RowReader(contextlib.AbstractContextManager["RowReader"]):
    """Reads rows of one file after another; the last one stays open until another is asked for.

    A stretch of the vectors of which the end is read is compared with its checksum. What was not
    read just before of it is read for that, so that whoever reads a file in several windows, in one
    process or in many, misses none.
    """

    def __init__(self) -> None:
        self._header: Header | None = None
        self._file: IO[bytes] | None = None
        self._place = 0  # of the vectors' bytes, up to which they were read
        self._sum: int | None = None  # of the stretch there, up to there; None if it began earlier

    def __exit__(self, *_: Any) -> None:
        if self._file is not None:
            self._file.close()
        self._file = self._header = None

    def fill(self, target: np.ndarray, header: Header, first: int) -> None:
        """Reads the rows from `first` on into target [n, D], of the file's dtype or a wider one."""
        if self._file is None or self._header is not header:
            self.__exit__()
            self._file, self._header = _open(header.path), header
            self._place, self._sum = 0, 0
        if not target.size:
            return
        same = target.dtype == header.dtype and target.flags.c_contiguous
        rows = target if same else np.empty(target.shape, header.dtype)
        data = rows.reshape(-1).view(np.uint8).data
        start = first * header.row_bytes
        _read_into(self._file, header.vectors[0] + start, data, header.path)
        self._compare(data, start, header)
        if not same:
            target[:] = rows

    def _compare(self, data: memoryview, start: int, header: Header) -> None:
        """Goes on with the checksum at byte `start`; a UserError if a stretch has another."""
        if header.checksums is None:
            return
        if start != self._place:
            self._sum = None
        size = header.vectors[1] - header.vectors[0]
        while data:
            number, within = divmod(start, _STRETCH)
            end = min(_STRETCH, size - number * _STRETCH)
            piece = data[: end - within]
            is_end = within + len(piece) == end
            if within == 0 or (is_end and self._sum is None):
                self._sum = self._sum_of(header, start - within, within)
            if self._sum is not None:
                self._sum = zlib.crc32(piece, self._sum)
                if is_end and self._sum != header.checksums[number]:
                    first = number * _STRETCH // header.row_bytes
                    last = (number * _STRETCH + end - 1) // header.row_bytes
                    raise _damaged(
                        header.path, f"rows {first} to {last} are not those that were written"
                    )
            data, start = data[len(piece) :], start + len(piece)
        self._place = start

    def _sum_of(self, header: Header, start: int, length: int) -> int:
        """The checksum of so many bytes of the vectors, which are read once more."""
        assert self._file is not None
        data = bytearray(length)
        _read_into(self._file, header.vectors[0] + start, memoryview(data), header.path)
        return zlib.crc32(data)

    def pick(self, target: np.ndarray, header: Header, wanted: np.ndarray) -> None:
        """Reads rising rows `wanted` [n] into target [n, D]; those that lie close in one go."""
        row_bytes = max(1, header.row_bytes)
        gap = _GAP_REMOTE if "://" in str(header.path) else _GAP_LOCAL
        most = max(1, _RUN_BYTES // row_bytes)
        scratch = np.empty((0, header.dim), header.dtype)
        for run in runs(wanted, 1 + gap // row_bytes, most):
            first, last = int(wanted[run.start]), int(wanted[run.stop - 1])
            if last - first == run.stop - run.start - 1:
                self.fill(target[run], header, first)
                continue
            if not len(scratch):
                scratch = np.empty((most, header.dim), header.dtype)
            span = scratch[: last - first + 1]
            self.fill(span, header, first)
            target[run] = span[wanted[run] - first]
