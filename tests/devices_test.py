"""The program on one device and on eight: the same ranking, to the index."""

import os
import pathlib
import subprocess
import sys

import numpy as np
from conftest import SMALL_WORLD
from etils import epath

from ilias_jax.ranking import Ranking

ROOT = pathlib.Path(__file__).parents[1]


def _rankings(work: pathlib.Path, data: pathlib.Path, num_devices: int) -> list[Ranking]:
    """Runs main.py on so many simulated devices."""
    flags = f"--xla_force_host_platform_device_count={num_devices}"
    words = {
        "dataset.data_dir": data,
        **{f"dataset.world.{key}": value for key, value in vars(SMALL_WORLD).items()},
        "embed.batch_size_per_device": 8,
        "search.measure_ann_recall": False,
        "search.k": 50,
        "search.block_rows": 16,
        "report.gallery_queries": 0,
    }
    subprocess.run(
        [
            sys.executable,
            str(ROOT / "main.py"),
            f"--config={ROOT}/configs/demo.py",
            f"--workdir={work}",
            *(f"--config.{key}={value}" for key, value in words.items()),
        ],
        check=True,
        capture_output=True,
        env={
            **os.environ,
            "XLA_FLAGS": flags,
            "JAX_PLATFORMS": "cpu",
            "PYTHONPATH": str(ROOT),
        },
    )
    sections = ("image_to_image", "text_to_image")
    return [Ranking.load(epath.Path(work) / "rankings" / f"{name}.npz") for name in sections]


def test_eight_devices_and_one_give_the_same_ranking(tmp_path, small_world):
    one = _rankings(tmp_path / "one", small_world, 1)
    eight = _rankings(tmp_path / "eight", small_world, 8)
    for a, b in zip(one, eight, strict=True):
        assert a.query_ids == b.query_ids
        np.testing.assert_array_equal(a.indices, b.indices)
        np.testing.assert_array_equal(a.scores, b.scores)


def test_everything_that_needs_eight_devices() -> None:
    words = ["-m", "eight_devices and not slow", "-p", "no:xdist", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *words, str(ROOT / "tests")],
        env={**os.environ, "ILIAS_TEST_DEVICES": "8"},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
