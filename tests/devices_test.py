"""A whole run on one device and on eight; and the process of all tests that need eight devices."""

import os
import pathlib
import subprocess
import sys

import finished_run
import jax
import numpy as np
import pytest
from etils import epath

from ilias_jax.search.ranking import Ranking

ROOT = pathlib.Path(__file__).parents[1]
SECTIONS = ("image_to_image", "text_to_image")


@pytest.mark.eight_devices
def test_eight_devices_and_one_give_the_same_ranking(tmp_path, monkeypatch):
    devices, rankings = jax.local_devices(), {}
    assert len(devices) == 8
    for count in (1, 8):
        monkeypatch.setattr(jax, "local_devices", lambda count=count: devices[:count])
        work = finished_run.finish(tmp_path, f"on {count}")
        rankings[count] = [
            Ranking.load(epath.Path(work) / "rankings" / f"{name}.npz") for name in SECTIONS
        ]
        files = work.glob("embeddings/*/*.safetensors")
        rankings[count, "bytes"] = {path.name: path.read_bytes() for path in files}
    for one, eight in zip(rankings[1], rankings[8], strict=True):
        assert one.query_ids == eight.query_ids
        np.testing.assert_array_equal(one.indices, eight.indices)
        np.testing.assert_array_equal(one.scores, eight.scores)
    assert rankings[1, "bytes"] == rankings[8, "bytes"] != {}


def test_everything_that_needs_eight_devices() -> None:
    """Only files with such tests are collected: to import all tests takes longer than to run these."""
    files = [path for path in (ROOT / "tests").rglob("*_test.py") if _needs_eight(path)]
    assert files
    words = ["-m", "eight_devices and not slow", "-p", "no:xdist", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *words, *map(str, files)],
        env={**os.environ, "ILIAS_TEST_DEVICES": "8"},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]


def _needs_eight(path: pathlib.Path) -> bool:
    return "mark.eight_devices" in path.read_text()
