"""SIGKILL at random moments in the real command; the next run ends as if nothing had happened."""

import contextlib
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest
from conversion_fixture import hashes, official_copy
from official_forms import jpeg, tar_of

NUM_TARS, NUM_IMAGES, IMAGE_BYTES = 5, 150, 60_000


@pytest.fixture(scope="module")
def root(small_world, tmp_path_factory):
    """A dataset whose tars take a while to convert."""
    root = official_copy(small_world, tmp_path_factory.mktemp("kill") / "root")
    shutil.rmtree(root / "yfcc100m")
    rng = random.Random(2)
    for number in range(NUM_TARS):
        tar_of(
            root / "yfcc100m" / f"{number}.tar",
            ((f"{i:05d}.jpg", jpeg(i) + rng.randbytes(IMAGE_BYTES)) for i in range(NUM_IMAGES)),
        )
    return root


def command(root: pathlib.Path, data: pathlib.Path) -> subprocess.Popen:
    words = ["convert", "--root", str(root), "--data_dir", str(data), "--processes", "2"]
    environment = {**os.environ, "PYTHONPATH": str(pathlib.Path(__file__).parents[2])}
    return subprocess.Popen(
        [sys.executable, "-m", "ilias_jax.cli", *words],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(root: pathlib.Path, data: pathlib.Path) -> float:
    """Runs the command to its end; returns the seconds."""
    start = time.monotonic()
    process = command(root, data)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return time.monotonic() - start


def kill_after(seconds: float, root: pathlib.Path, data: pathlib.Path, whole_group: bool) -> bool:
    """Kills the command, with or without its workers; returns whether it was still at work."""
    process = command(root, data)
    time.sleep(seconds)
    at_work = process.poll() is None
    with contextlib.suppress(ProcessLookupError):  # it was quicker
        (os.killpg if whole_group else os.kill)(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)  # the pipes close when the last worker has gone
    return at_work


@pytest.fixture(scope="module")
def undisturbed(root, tmp_path_factory):
    """Hashes of an undisturbed run's folder, and its seconds."""
    data = tmp_path_factory.mktemp("undisturbed") / "data"
    seconds = finish(root, data)
    return hashes(data), seconds


@pytest.mark.slow
def test_three_kills_in_a_row_change_nothing(root, undisturbed, tmp_path):
    expected, seconds = undisturbed
    rng, data, killed = random.Random(1), tmp_path / "data", 0
    for share in (0.5, 0.7, 0.85):
        moment = seconds * (share + rng.uniform(-0.1, 0.1))
        killed += kill_after(moment, root, data, whole_group=rng.random() < 0.5)
    finish(root, data)
    assert hashes(data) == expected
    assert killed  # otherwise nothing was tried


@pytest.mark.slow
def test_thirty_kills_change_nothing(root, undisturbed, tmp_path):
    expected, seconds = undisturbed
    rng, killed, midway = random.Random(0), 0, 0
    for number in range(90):  # a run that ends before its kill does not count
        data = tmp_path / f"data{number}"
        moment = seconds * rng.uniform(0.2, 1.0)
        killed += kill_after(moment, root, data, whole_group=number % 2 == 0)
        left = hashes(data) if data.exists() else {}
        midway += bool(left) and left != expected
        finish(root, data)
        assert hashes(data) == expected, (number, moment)
        shutil.rmtree(data)
        if killed == 30:
            break
    print(f"{killed} runs were killed at work, {midway} with the folder half written")
    assert killed == 30 and midway >= 10


def test_an_interrupt_stops_cleanly(root, undisturbed, tmp_path):
    data, (expected, _) = tmp_path / "data", undisturbed
    process = command(root, data)
    deadline = time.monotonic() + 60
    while not list(data.glob("ilias/1.0.0/.ilias-distractor*.tmp")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the workers as well
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.endswith("interrupted; run the same command to go on\n"), errors
    assert "Traceback" not in errors
    assert not [name for name in hashes(data) if name.endswith(".tmp")]
    finish(root, data)
    assert hashes(data) == expected
