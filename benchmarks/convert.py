"""Prints the speed of converting tars beside reading them, copying them, and a plain conversion.

    python benchmarks/convert.py --folder /big/disk

Tars of random JPEG-like images of 63 KB, the mean of the real ones, are made in a temporary folder.
Every way runs once a round, in turn; the table has medians. "cached" reads tars that the system
has in memory; "cold" drops them from its memory before each run, as 6.3 TB would be. What a run
writes is removed before the next. JSON of all times goes to `--output`.
"""

import concurrent.futures
import functools
import io
import json
import multiprocessing
import os
import pathlib
import platform
import shutil
import statistics
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Callable, Sequence

import numpy as np
from absl import app, flags
from array_record.python.array_record_module import ArrayRecordWriter
from PIL import Image

from ilias_jax.dataset import shards
from ilias_jax.dataset.convert import Job, convert_tar
from ilias_jax.dataset.inventory import ShardSlot

_FOLDER = flags.DEFINE_string("folder", None, "for a temporary folder, 2 x tars x gigabytes large")
_GIGABYTES = flags.DEFINE_float("gigabytes", 1.0, "size of a tar", lower_bound=0.01)
_ROUNDS = flags.DEFINE_integer("rounds", 5, "how often every way runs", lower_bound=1)
_PROCESSES = flags.DEFINE_integer("processes", os.cpu_count() or 1, "and tars", lower_bound=1)
_OUTPUT = flags.DEFINE_string("output", "benchmarks/results/convert.json", "where the times go")
_BLOCK = 8 << 20  # bytes of one read
Way = Callable[[Sequence[pathlib.Path], pathlib.Path], None]


def make_tar(path: pathlib.Path, num_bytes: float, seed: int) -> None:
    """Writes a tar of images of 20 to 106 KB: a true header, then noise as entropy-coded data."""
    rng = np.random.default_rng(seed)
    buffer = io.BytesIO()
    Image.new("RGB", (500, 375)).save(buffer, "JPEG")
    header = buffer.getvalue()[: buffer.getvalue().index(b"\xff\xda")]
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        number = 0
        while tar.offset < num_bytes:
            data = header + rng.bytes(int(rng.integers(20_000, 106_000)))
            member = tarfile.TarInfo(f"{number:012x}.jpg")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
            number += 1
    with path.open("rb") as file:
        os.fsync(file.fileno())  # what is not on the disk cannot be dropped from memory


def read_by_tar(tars: Sequence[pathlib.Path], folder: pathlib.Path) -> None:
    """`tar -xOf FILE > /dev/null`, one process a tar."""
    del folder
    with open(os.devnull, "wb") as sink:
        running = [subprocess.Popen(["tar", "-xOf", str(path)], stdout=sink) for path in tars]
    for process in running:
        assert process.wait() == 0


def copy(path: pathlib.Path, target: pathlib.Path) -> None:
    """Reads a file and writes the same bytes: what no conversion can do without."""
    block = bytearray(_BLOCK)
    with path.open("rb", buffering=0) as source, target.open("wb", buffering=0) as sink:
        while count := source.readinto(block):
            sink.write(memoryview(block)[:count])


def convert_plainly(path: pathlib.Path, target: pathlib.Path) -> None:
    """Python's tarfile, TFDS's serializer, the writer's default compression."""
    features = shards.image_features()
    writer = ArrayRecordWriter(str(target), "group_size:1")
    with tarfile.open(path) as tar:
        for member in tar:
            file = tar.extractfile(member)
            assert file is not None
            example = {
                "id": f"{path.name}/{member.name[:-4]}",
                "image": io.BytesIO(file.read()),
                "boxes": np.zeros((0, 4), np.float32),
            }
            writer.write(features.serialize_example(example))
    writer.close()


def convert_ours(path: pathlib.Path, target: pathlib.Path) -> None:
    """The conversion of the command, with inventory and all checks."""
    convert_tar(Job(path, ShardSlot(target, "distractor", 0, 1)))


def each(
    function: Callable[[pathlib.Path, pathlib.Path], None],
    pool: concurrent.futures.Executor,
    tars: Sequence[pathlib.Path],
    folder: pathlib.Path,
) -> None:
    """Runs a function over tars in processes that are started already."""
    list(pool.map(function, tars, [folder / f"{number}.out" for number in range(len(tars))]))


def drop(paths: Sequence[pathlib.Path]) -> None:
    """Makes the system forget files that it has in memory."""
    for path in paths:
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def measure(way: Way, tars: Sequence[pathlib.Path], folder: pathlib.Path, cold: bool) -> float:
    """Seconds of one run into an empty folder."""
    folder.mkdir()
    if cold:
        drop(tars)
    start = time.perf_counter()
    way(tars, folder)
    seconds = time.perf_counter() - start
    shutil.rmtree(folder)
    return seconds


def rounds(
    ways: dict[str, Way], sets: dict[str, Sequence[pathlib.Path]], folder: pathlib.Path
) -> dict[str, list[float]]:
    """MB/s of every way with every set of tars, cached and cold, a value a round."""
    speeds: dict[str, list[float]] = {}
    for _ in range(_ROUNDS.value):
        for state in ("cached", "cold"):
            for of, tars in sets.items():
                num_bytes = sum(path.stat().st_size for path in tars)
                for name, way in ways.items():
                    seconds = measure(way, tars, folder / "out", state == "cold")
                    speeds.setdefault(f"{of}, {state}: {name}", []).append(
                        num_bytes / seconds / 1e6
                    )
    return speeds


def report(speeds: dict[str, list[float]]) -> None:
    """Prints medians, and ratios to reading and to copying in the same state."""
    print(f"{'':<58}{'MB/s':>8}{'of tar -xOf':>13}{'of copying':>12}")
    median = {name: statistics.median(values) for name, values in speeds.items()}
    for name, value in median.items():
        state = name.partition(":")[0]
        tar, copied = median[f"{state}: tar -xOf"], median[f"{state}: read and write"]
        print(f"{name:<58}{value:>8,.0f}{value / tar:>13.2f}{value / copied:>12.2f}")


def main(argv: list[str]) -> None:
    """Makes the tars, measures, prints and writes."""
    del argv
    context = multiprocessing.get_context("spawn")
    with (
        tempfile.TemporaryDirectory(dir=_FOLDER.value) as name,
        concurrent.futures.ProcessPoolExecutor(_PROCESSES.value, mp_context=context) as pool,
    ):
        folder = pathlib.Path(name)
        tars = [folder / f"{number:03d}.tar" for number in range(_PROCESSES.value)]
        size = _GIGABYTES.value * 1e9
        for _ in pool.map(make_tar, tars, [size] * len(tars), range(len(tars))):
            pass
        ways: dict[str, Way] = {
            "tar -xOf": read_by_tar,
            "read and write": functools.partial(each, copy, pool),
            "ilias-jax convert": functools.partial(each, convert_ours, pool),
            "tarfile, TFDS, compressed": functools.partial(each, convert_plainly, pool),
        }
        sets: dict[str, Sequence[pathlib.Path]] = {"1 process": tars[:1]}
        if len(tars) > 1:
            sets[f"{len(tars)} processes"] = tars
        speeds = rounds(ways, sets, folder)
    report(speeds)
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    document = {
        "benchmark": "convert",
        "machine": machine,
        "gigabytes": _GIGABYTES.value,
        "megabytes_per_second": speeds,
    }
    if _OUTPUT.value:
        pathlib.Path(_OUTPUT.value).write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    app.run(main)
