"""A run that is killed again and again while it extracts descriptors and re-ranks."""

import os
import pathlib
import random
import shutil
import subprocess
import sys
import time

import pytest

TESTS = pathlib.Path(__file__).parents[1]
KILLS = 30


def _start(data: pathlib.Path, work: pathlib.Path) -> subprocess.Popen:
    """A process that says when it begins to extract, and takes its time for a block of queries."""
    program = (
        "import sys, time, pathlib, patch_model\n"
        "from ilias_jax.rerank import extract, stage\n"
        "extract._IMAGES_A_FILE, stage._BLOCK_BYTES = 3, 1\n"
        "extract.jpeg_to_local_patches = patch_model.slowly(extract.jpeg_to_local_patches, 0.03)\n"
        "stage._Blocks._score_block = patch_model.slowly(stage._Blocks._score_block, 0.1)\n"
        "resolve = patch_model.benchmark.embed_dataset\n"
        "def embed(*arguments):\n"
        "    found = resolve(*arguments)\n"
        "    print('embedded', flush=True)\n"
        "    return found\n"
        "patch_model.benchmark.embed_dataset = embed\n"
        "patch_model.run(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]))\n"
    )
    paths = os.pathsep.join([str(TESTS), str(TESTS.parent)])
    return subprocess.Popen(
        [sys.executable, "-c", program, str(data), str(work)],
        env={**os.environ, "PYTHONPATH": paths},
        stdout=subprocess.PIPE,
        text=True,
    )


def _finish(data: pathlib.Path, work: pathlib.Path) -> None:
    with _start(data, work) as process:
        process.communicate()
    assert process.returncode == 0


def _contents(work: pathlib.Path) -> dict[str, bytes]:
    paths = [*work.glob("descriptors/*/*"), *work.glob("rerank/*/*"), *work.glob("rankings/*")]
    return {str(path.relative_to(work)): path.read_bytes() for path in paths}


@pytest.mark.slow
def test_kills_change_no_bit(small_world, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    _finish(small_world, whole)
    shutil.copytree(whole / "embeddings", killed / "embeddings")
    rng, count = random.Random(0), 0
    while count < KILLS:
        with _start(small_world, killed) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if line == "embedded\n":
                    break
            time.sleep(rng.uniform(0.1, 6))
            if process.poll() is None:
                process.kill()
                count += 1
        if process.returncode == 0:  # it was done: the next ones begin anew
            assert _contents(killed) == _contents(whole)
            shutil.rmtree(killed)
            shutil.copytree(whole / "embeddings", killed / "embeddings")
    _finish(small_world, killed)
    assert _contents(killed) == _contents(whole)
