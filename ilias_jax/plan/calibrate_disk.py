"""Measures the disk of a folder, and how fast one process makes a shard of a tar there."""

import dataclasses
import io
import os
import pathlib
import tarfile
import tempfile
import time

from ilias_jax.dataset.distractors import Job, convert_tar
from ilias_jax.dataset.finished import Place
from ilias_jax.plan.pictures import photograph
from ilias_jax.progress import format_bytes

_CHUNK = 8 << 20
_LEAST_CHUNKS, _MOST_CHUNKS = 4, 128
_TAR_IMAGES = 400  # about 25 MB
_DIFFERENT = 16


@dataclasses.dataclass(frozen=True)
class DiskCost:
    """Bytes a second: written, read, and converted by one process."""

    write: float
    read: float
    convert: float
    how: tuple[str, ...]


def measure(folder: pathlib.Path, seconds: float) -> DiskCost:
    """Writes and reads a file, and converts a small tar, in `folder`; nothing is left there."""
    with tempfile.TemporaryDirectory(dir=folder, prefix=".plan-") as temporary:
        place = pathlib.Path(temporary)
        write, read, cached = write_and_read(place / "file", seconds / 3)
        convert = convert_rate(place, seconds / 3)
    source = "from memory, as this system cannot empty it" if cached else "not from memory"
    how = (
        f"disk at {folder}: writes {format_bytes(write)}/s, reads {format_bytes(read)}/s "
        f"({source})",
        f"converting a tar: {format_bytes(convert)}/s in one process, the tar in memory",
    )
    return DiskCost(write, read, convert, how)


def write_and_read(path: pathlib.Path, seconds: float) -> tuple[float, float, bool]:
    """Bytes a second to the disk and from it, and whether the reads came from memory instead."""
    chunk = os.urandom(_CHUNK)
    start, chunks = time.perf_counter(), 0
    with path.open("wb", buffering=0) as file:
        while chunks < _LEAST_CHUNKS or (
            chunks < _MOST_CHUNKS and time.perf_counter() - start < seconds
        ):
            file.write(chunk)
            chunks += 1
            os.fsync(file.fileno())
    write = chunks * _CHUNK / (time.perf_counter() - start)
    start = time.perf_counter()
    with path.open("rb", buffering=0) as file:
        cached = not hasattr(os, "posix_fadvise")
        if not cached:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        while file.read(_CHUNK):
            pass
    read = chunks * _CHUNK / (time.perf_counter() - start)
    path.unlink()
    return write, read, cached


def convert_rate(folder: pathlib.Path, seconds: float) -> float:
    """Bytes a second of tars of photographs that become shards; at least one is converted."""
    tar = folder / "plan.tar"
    _write_tar(tar)
    start, count = time.perf_counter(), 0
    while not count or time.perf_counter() - start < seconds * count / (count + 1):
        convert_tar(Job(tar, Place(folder / "data", "distractor", 0, 1)))
        count += 1
    return count * tar.stat().st_size / (time.perf_counter() - start)


def _write_tar(path: pathlib.Path) -> None:
    jpegs = [photograph(seed) for seed in range(_DIFFERENT)]
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for number in range(_TAR_IMAGES):
            jpeg = jpegs[number % len(jpegs)]
            member = tarfile.TarInfo(f"{number:08d}.jpg")
            member.size = len(jpeg)
            tar.addfile(member, io.BytesIO(jpeg))
