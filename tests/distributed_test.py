"""Two processes share the shards: each is embedded once, and the result is that of one process."""

import os
import pathlib
import socket
import subprocess
import sys

import numpy as np
import pytest
import small_cnn
from embedding_reader import read
from etils import epath

from ilias_jax.search.ranking import Ranking

RERANK = ("--config.rerank.method=chamfer", "--config.rerank.shortlist=20")
ROOT = pathlib.Path(__file__).parents[1]


def _start(
    work: pathlib.Path, data: pathlib.Path, *words: str, model: str = "tiny"
) -> subprocess.Popen:
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(ROOT),
        "XLA_FLAGS": "--xla_force_host_platform_device_count=1",
    }
    settings = {
        "dataset.data_dir": data,
        "embed.canvas": 0,
        "embed.num_buckets": 2,
        "embed.batch_size_per_device": 8,
        "report.gallery_queries": 0,
    }
    command = [sys.executable, str(ROOT / "main.py"), f"--config={ROOT}/configs/model.py:{model}"]
    command += [f"--config.{key}={value}" for key, value in settings.items()]
    return subprocess.Popen(
        [*command, f"--workdir={work}", *words],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _finish(process: subprocess.Popen) -> str:
    output, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    return output


@pytest.mark.parametrize(
    ("model", "reranks"),
    [
        ("tiny", False),
        pytest.param("tiny", True, marks=pytest.mark.slow),
        pytest.param(small_cnn.ROW, False, marks=pytest.mark.slow),
    ],
)
def test_two_processes_equal_one(tmp_path, small_world, model, reranks):
    words = () if model == "tiny" else small_cnn.words(tmp_path)
    words = (*words, *RERANK) if reranks else words
    alone = _finish(_start(tmp_path / "one", small_world, *words, model=model))
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    join = ("--distributed", f"--coordinator=localhost:{port}", "--num_processes=2")
    both = [
        _start(tmp_path / "two", small_world, *words, *join, f"--process_id={i}", model=model)
        for i in range(2)
    ]
    outputs = [_finish(process) for process in both]

    def scores(text: str) -> list[str]:
        return [line for line in text.splitlines() if "mAP@" in line]

    assert scores(outputs[0]) == scores(alone)
    assert len(scores(alone)) == reranks + (2 if model == "tiny" else 1)  # a CNN has no texts
    assert not scores(outputs[1])
    # Three tars: the first process embeds the first and the third, and the 8 queries and 14
    # positives, which are a shard each; the second embeds the second.
    embedded = [
        [line for line in text.splitlines() if line.startswith("embed images")][-1]
        for text in outputs
    ]
    assert "49 of 49" in embedded[0]
    assert "13 of 13" in embedded[1]
    one, two = (sorted((tmp_path / name).glob("[de]*s/*/*.safetensors")) for name in ("one", "two"))
    assert [path.name for path in one] == [path.name for path in two]
    for a, b in zip(one, two, strict=True):
        first, second = read(epath.Path(a)), read(epath.Path(b))
        assert first.ids == second.ids
        np.testing.assert_array_equal(first.vectors, second.vectors)
    rankings = [
        [Ranking.load(epath.Path(path)) for path in sorted((tmp_path / name).glob("rankings/*"))]
        for name in ("one", "two")
    ]
    assert len(rankings[0]) == len(scores(alone))
    for first, second in zip(*rankings, strict=True):
        np.testing.assert_array_equal(first.indices, second.indices)
