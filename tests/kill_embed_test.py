"""SIGKILL at random moments of an extraction, by the real command; two at once in one folder."""

import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest
from conversion_fixture import hashes

from ilias_jax.config import WorldConfig
from ilias_jax.preflight import make_world

ROOT = pathlib.Path(__file__).parents[1]
WORLD = WorldConfig(
    seed=5, num_objects=6, num_image_queries=20, num_positives=40, num_distractors=240, num_tars=8
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("kill") / "world"
    make_world(WORLD, folder, num_processes=2)
    return folder


def start(data: pathlib.Path, work: pathlib.Path) -> subprocess.Popen:
    """The command. Pictures of up to 300 pixels are resized on the device, the others before."""
    settings = {
        "dataset.data_dir": data,
        **{f"dataset.world.{key}": value for key, value in vars(WORLD).items()},
        "embed.batch_size_per_device": 8,
        "embed.canvas": 300,
        "search.measure_ann_recall": False,
        "metrics.num_resamples": 40,
        "report.gallery_queries": 0,
    }
    words = [f"--config.{key}={value}" for key, value in settings.items()]
    flags = "--xla_force_host_platform_device_count=1"
    return subprocess.Popen(
        [
            *(sys.executable, str(ROOT / "main.py"), f"--config={ROOT}/configs/demo.py"),
            *(f"--workdir={work}", *words),
        ],
        env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(data: pathlib.Path, work: pathlib.Path) -> None:
    """Runs the command to its end."""
    process = start(data, work)
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors


def embedded(work: pathlib.Path) -> dict[str, str]:
    """Hashes of all that lies in `embeddings/`."""
    folder = work / "embeddings"
    return hashes(folder) if folder.exists() else {}


@pytest.fixture(scope="module")
def undisturbed(
    data: pathlib.Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, str], float]:
    """Hashes of what an undisturbed run leaves, and the seconds that it embeds."""
    work = tmp_path_factory.mktemp("undisturbed")
    process = start(data, work)
    began, ended = wait_for_embeddings(process, work), 0.0
    while process.poll() is None:
        ended = ended or (time.monotonic() if (work / "rankings").exists() else 0.0)
        time.sleep(0.01)
    assert process.returncode == 0, process.communicate()[1]
    process.communicate()
    return embedded(work), ended - began


def wait_for_embeddings(process: subprocess.Popen, work: pathlib.Path) -> float:
    """Waits until the command has begun with its first shard; returns when that was."""
    deadline = time.monotonic() + 300
    while not (work / "embeddings").exists():
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.005)
    return time.monotonic()


def kill_once(data: pathlib.Path, work: pathlib.Path, seconds: float) -> bool:
    """Kills the command so long after its first shard; returns whether it was embedding."""
    process = start(data, work)
    wait_for_embeddings(process, work)
    time.sleep(seconds)
    embedding = process.poll() is None and not (work / "rankings").exists()
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    return embedding


def test_two_kills_change_nothing(data, undisturbed, tmp_path):
    expected, seconds = undisturbed
    assert len(expected) == 1 + 1 + 8 + 1  # queries, positives, distractors, texts; no lock
    assert kill_once(data, tmp_path, 0.35 * seconds)
    kill_once(data, tmp_path, 0.6 * seconds)
    finish(data, tmp_path)
    assert embedded(tmp_path) == expected


def test_two_commands_in_one_folder_write_each_file_once(data, undisturbed, tmp_path):
    expected, _ = undisturbed
    both = [start(data, tmp_path) for _ in range(2)]
    seen: dict[pathlib.Path, set[tuple[int, int]]] = {}
    while any(process.poll() is None for process in both):
        for path in tmp_path.glob("embeddings/*/[!.]*"):
            state = path.stat()
            seen.setdefault(path, set()).add((state.st_ino, state.st_mtime_ns))
        time.sleep(0.005)
    outputs = [process.communicate() for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    assert embedded(tmp_path) == expected
    assert len(seen) == len(expected) and {len(states) for states in seen.values()} == {1}


@pytest.mark.slow
def test_fifty_kills_change_nothing(data, undisturbed, tmp_path):
    """Each kill is followed by a rerun; every third one is killed again on the way."""
    expected, seconds = undisturbed
    rng, killed, midway = random.Random(0), 0, 0
    for number in range(150):  # a run that was over before its kill does not count
        work = tmp_path / f"work{number}"
        killed += kill_once(data, work, seconds * rng.uniform(0.0, 1.0))
        if number % 3 == 0:
            killed += kill_once(data, work, seconds * rng.uniform(0.0, 0.5))
        left = {name for name in embedded(work) if name.endswith(".safetensors")}
        midway += 0 < len(left) < len(expected)
        finish(data, work)
        assert embedded(work) == expected, number
        shutil.rmtree(work)
        if killed >= 50:
            break
    print(f"{killed} runs were killed while they embedded, {midway} with some shards written")
    assert killed >= 50 and midway >= 10
