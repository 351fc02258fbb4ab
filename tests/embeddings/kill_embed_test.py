"""SIGKILL at named and at random moments of an extraction; two extractions at once in one folder."""

import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time

import embed_shards_test
import pytest
from conversion_fixture import hashes
from etils import epath

from ilias_jax.config import WorldConfig
from ilias_jax.dataset.synthetic.generate import make_world

ROOT = pathlib.Path(__file__).parents[2]
# Where the writing of a shard's file is killed, and at which file of the run.
POINTS = {"before": 2, "half": 2, "written": 1, "renamed": 1}


def kill_at(point: str) -> None:
    """Lets this process kill itself while it writes a file."""
    kind, num_written = type(epath.Path("/")), 0
    write_bytes, replace = kind.write_bytes, kind.replace

    def here(name: str) -> bool:
        return name == point and num_written == POINTS[point]

    def kill() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def killing_write(path: epath.Path, data: bytes) -> None:
        nonlocal num_written
        num_written += 1
        if here("before"):
            kill()
        write_bytes(path, data[: len(data) // 2] if here("half") else data)
        if here("half") or here("written"):
            kill()

    def killing_replace(path: epath.Path, target: epath.Path) -> None:
        replace(path, target)
        if here("renamed"):
            kill()

    kind.write_bytes, kind.replace = killing_write, killing_replace


def embed_in_process(folder: pathlib.Path, point: str) -> subprocess.Popen:
    """Embeds the shards of `shards_test`; prints those that were read."""
    return subprocess.Popen(
        [sys.executable, __file__, str(folder), point],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Hashes of what an undisturbed extraction leaves."""
    folder = tmp_path_factory.mktemp("whole")
    embed_shards_test.Source(folder).embed()
    return hashes(folder)


def test_a_kill_at_every_point_of_a_write_changes_nothing(whole, tmp_path):
    finished = []
    for point in POINTS:
        process = embed_in_process(tmp_path, point)
        _, errors = process.communicate(timeout=300)
        assert process.returncode == -signal.SIGKILL, errors
        left = {name: digest for name, digest in hashes(tmp_path).items() if name in whole}
        assert left.items() <= whole.items()  # what has its final name is whole
        finished.append(len(left))
    assert finished == [1, 2, 2, 3]
    embed_shards_test.Source(tmp_path).embed()
    found = hashes(tmp_path)
    # A process that dies between rename and release leaves an empty file, which disturbs nobody.
    lock = {name for name in found if name.endswith(".lock")}
    assert len(lock) == 1 and found.keys() - lock == whole.keys()  # and no temporary file
    assert whole.items() <= found.items()


def test_two_processes_in_one_folder_embed_each_shard_once(whole, tmp_path):
    both = [embed_in_process(tmp_path, "slow") for _ in range(2)]
    outputs = [process.communicate(timeout=300) for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    read = [json.loads(output.splitlines()[-1]) for output, _ in outputs]
    assert sorted(read[0] + read[1]) == [0, 1, 2, 3]
    assert hashes(tmp_path) == whole


WORLD = WorldConfig(
    seed=5, num_objects=6, num_image_queries=20, num_positives=40, num_distractors=240, num_tars=8
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("kill") / "world"
    make_world(WORLD, folder, num_processes=2)
    return folder


def start(
    data: pathlib.Path, work: pathlib.Path, model: str = "tiny", *more: str
) -> subprocess.Popen:
    """The command. Pictures of up to 300 pixels are resized on the device, the others before."""
    settings = {
        "dataset.data_dir": data,
        "embed.batch_size_per_device": 8,
        "embed.canvas": 300,
        "metrics.num_resamples": 40,
        "report.gallery_queries": 0,
    }
    words = [f"--config.{key}={value}" for key, value in settings.items()]
    flags = "--xla_force_host_platform_device_count=1"
    return subprocess.Popen(
        [
            *(sys.executable, str(ROOT / "main.py"), f"--config={ROOT}/configs/model.py:{model}"),
            *(f"--workdir={work}", *words, *more),
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


def is_embedded(work: pathlib.Path) -> bool:
    """Whether the last file of the extraction, that of the texts, is there."""
    return any(work.glob("embeddings/*/text_query.safetensors"))


@pytest.fixture(scope="module")
def undisturbed(
    data: pathlib.Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, str], float]:
    """Hashes of what an undisturbed run leaves, and the seconds that it embeds."""
    work = tmp_path_factory.mktemp("undisturbed")
    process = start(data, work)
    began, ended = wait_for_embeddings(process, work), 0.0
    while process.poll() is None:
        ended = ended or (time.monotonic() if is_embedded(work) else 0.0)
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
    embedding = process.poll() is None and not is_embedded(work)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    return embedding


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


if __name__ == "__main__":
    source = embed_shards_test.Source(pathlib.Path(sys.argv[1]))
    if sys.argv[2] == "slow":  # each waits in its first shards for the other to begin
        items = source.items

        def slow_items(shard, named):
            time.sleep(0.5)
            yield from items(shard, named)

        source.embed(items=slow_items)
    else:
        kill_at(sys.argv[2])
        source.embed()
    print(json.dumps(source.read))
