"""Shards: each is embedded once and whole, whatever errors, devices and other processes do."""

import dataclasses
import errno
import operator
import pathlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from embedding_reader import read
from etils import epath

from ilias_jax.dataset.layout import Shard
from ilias_jax.embeddings import file
from ilias_jax.embeddings.embedder import Embedder, place_parameters
from ilias_jax.embeddings.file import Embeddings, write
from ilias_jax.embeddings.shards import Named, ShardJob, embed_shards, is_done
from ilias_jax.errors import UserError
from ilias_jax.files import final_name, try_lock
from ilias_jax.mesh import make_mesh
from ilias_jax.preprocessing.batching import Item
from ilias_jax.preprocessing.decode import Patches
from ilias_jax.profiling import StageTime

RNG = np.random.default_rng(0)
WEIGHTS = RNG.normal(size=(6, 5)).astype(np.float32)
INPUTS = RNG.normal(size=(37, 6)).astype(np.float32)


def forward(weights: jax.Array, x: jax.Array) -> jax.Array:
    return jnp.tanh(x @ weights)


def expected_vectors(inputs: np.ndarray) -> np.ndarray:
    """Slow oracle of `forward` and the normalisation, in float64."""
    raw = np.tanh(inputs.astype(np.float64) @ WEIGHTS.astype(np.float64))
    return raw / np.linalg.norm(raw, axis=1, keepdims=True)


def shard_forward(weights: jax.Array, patches: jax.Array, size: jax.Array) -> jax.Array:
    """`forward` of the first patch; the size must be that of an item or of padding."""
    return jnp.where((size == 1).all(axis=1, keepdims=True), forward(weights, patches[:, 0]), 0)


class Source:
    """Shards of made-up rows; shard i holds rows 9 i to 9 i + 8, and the record 3 unreadable."""

    def __init__(self, folder: pathlib.Path, broken: int | None = None, weights: str = "a") -> None:
        self.jobs = [
            ShardJob(
                Shard("distractor", i, 4, 10, f"shard{i}", 1000 + i, "digest"),
                epath.Path(folder) / f"{i}.safetensors",
                {"weights": weights, "source": i},
            )
            for i in range(4)
        ]
        self.broken = broken
        self.inputs = INPUTS.copy()
        self.read: list[int] = []

    def items(self, shard: Shard, named: Named) -> Iterator[Item]:
        """Every third item is long, so that two lengths fill up at different times."""
        self.read.append(shard.number)
        for row, vector in enumerate(self.inputs[9 * shard.number :][:9]):
            patches = np.zeros((2 if row % 3 else 1, 6), np.float32)
            patches[0] = vector
            yield row, Patches(patches, (1, 1))
            if shard.number == self.broken:
                raise OSError("the disk is gone")
            number = row if row < 3 else row + 1
            named.numbers.append(number)
            named.ids.append(f"{shard.file_name}/{number}")
        named.rejected.append((f"{shard.file_name}/3", "truncated"))

    def embed(
        self,
        dtype: str = "float32",
        jobs: list[ShardJob] | None = None,
        items: Callable[[Shard, Named], Iterable[Item]] | None = None,
        num_devices: int = 1,
    ) -> StageTime:
        timing, mesh = StageTime(), make_mesh(devices=jax.devices()[:num_devices])
        embedder = Embedder(shard_forward, place_parameters(WEIGHTS, mesh), mesh, 4)
        jobs = self.jobs if jobs is None else jobs
        encode = operator.methodcaller("astype", dtype)
        embed_shards(jobs, items or self.items, embedder, ((1,), (2,)), encode, timing, "embed")
        return timing


def names(folder: pathlib.Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_a_shard_becomes_a_file(
    tmp_path: pathlib.Path, dtype: str, capsys: pytest.CaptureFixture[str]
) -> None:
    source = Source(tmp_path)
    timing = source.embed(dtype)
    assert (timing.items, timing.skipped, source.read) == (36, 0, [0, 1, 2, 3])
    assert "embed: 40 of 40 in" in capsys.readouterr().out  # rejected records are done too
    assert names(tmp_path) == [f"{i}.safetensors" for i in range(4)]
    for i, job in enumerate(source.jobs):
        found = read(job.path)
        assert found.fingerprint == {"weights": "a", "source": i}
        assert found.numbers.tolist() == [0, 1, 2, 4, 5, 6, 7, 8, 9]
        assert found.ids == tuple(f"shard{i}/{number}" for number in found.numbers)
        assert found.rejected == ((f"shard{i}/3", "truncated"),)
        assert found.vectors.dtype == dtype
        tolerance = 1e-5 if dtype == "float32" else 1e-3
        expected = expected_vectors(INPUTS[9 * i : 9 * i + 9])
        np.testing.assert_allclose(found.vectors, expected, atol=tolerance)


def test_batches_hold_images_of_several_shards(tmp_path: pathlib.Path) -> None:
    """36 items in two lengths, 12 short and 24 long: 3 and 6 batches of four, and none padded."""
    timing = Source(tmp_path).embed()
    assert timing.real_tokens == 12 + 2 * 24
    assert timing.computed_tokens == 4 * (3 + 2 * 6)
    assert timing.device_facts()["fill_rate"] == 1.0


def test_devices_and_neighbours_change_no_bit(tmp_path: pathlib.Path) -> None:
    whole = Source(tmp_path / "whole")
    whole.embed(num_devices=2)
    alone = Source(tmp_path / "alone")
    for job in alone.jobs:
        alone.embed(jobs=[job])
    for one, other in zip(whole.jobs, alone.jobs, strict=True):
        assert one.path.read_bytes() == other.path.read_bytes()


def test_finished_shards_are_skipped(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Source(tmp_path).embed()
    (tmp_path / "1.safetensors").unlink()
    capsys.readouterr()
    before = (tmp_path / "0.safetensors").stat().st_mtime_ns
    source = Source(tmp_path)
    timing = source.embed()
    assert source.read == [1]
    assert (timing.items, timing.skipped) == (9, 30)
    assert (tmp_path / "0.safetensors").stat().st_mtime_ns == before
    assert "embed: 40 of 40 in" in capsys.readouterr().out


def test_files_of_other_weights_are_embedded_again(tmp_path: pathlib.Path) -> None:
    Source(tmp_path, weights="a").embed()
    source = Source(tmp_path, weights="b")
    assert not any(is_done(job.path, job.fingerprint) for job in source.jobs)
    timing = source.embed()
    assert (timing.items, timing.skipped) == (36, 0)
    assert all(is_done(job.path, job.fingerprint) for job in source.jobs)
    assert names(tmp_path) == [f"{i}.safetensors" for i in range(4)]


def test_an_error_leaves_whole_files_alone(tmp_path: pathlib.Path) -> None:
    with pytest.raises(OSError, match="the disk is gone"):
        Source(tmp_path, broken=3).embed()
    done = [int(name[0]) for name in names(tmp_path)]  # and no lock, no temporary file
    assert done in ([0], [0, 1])  # images of 2 were waiting for batches with those of 3
    source = Source(tmp_path)
    source.embed()
    assert source.read == [i for i in range(4) if i not in done]


def test_a_foreign_file_in_the_way_is_named(tmp_path: pathlib.Path) -> None:
    (tmp_path / "2.safetensors").write_text("what is this, and who put it here?")
    with pytest.raises(UserError, match="2.safetensors is no embedding file"):
        Source(tmp_path).embed()


def test_a_lost_item_is_noticed(tmp_path: pathlib.Path) -> None:
    source = Source(tmp_path)

    def one_short(shard: Shard, named: Named) -> Iterable[Item]:
        yield from list(source.items(shard, named))[:-1]

    with pytest.raises(RuntimeError, match="shard0: 8 embeddings for 9 items"):
        source.embed(items=one_short)
    assert names(tmp_path) == []


def test_nan_stops_the_run_by_name_and_keeps_other_shards(tmp_path: pathlib.Path) -> None:
    source = Source(tmp_path)
    source.inputs[9 * 2 + 4] = np.nan
    message = r"shard2: the model gave NaN or infinity for 1 of 9 items, first shard2/5; nothing"
    with pytest.raises(UserError, match=message):
        source.embed()
    assert "0.safetensors" in names(tmp_path) and "2.safetensors" not in names(tmp_path)
    assert {name[0] for name in names(tmp_path)} <= {"0", "1", "3"}


def test_a_full_disk_is_named(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: epath.Path, data: bytes) -> int:
        if final_name(path.name) == "1.safetensors":
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(path, data)

    write = type(epath.Path(tmp_path)).write_bytes
    monkeypatch.setattr(type(epath.Path(tmp_path)), "write_bytes", full)
    message = "1.safetensors cannot be written .*No space left on device.*run the same command"
    with pytest.raises(UserError, match=message):
        Source(tmp_path).embed()
    assert "0.safetensors" in names(tmp_path) and "1.safetensors" not in names(tmp_path)
    monkeypatch.undo()
    source = Source(tmp_path)
    source.embed()
    assert 0 not in source.read and len(names(tmp_path)) == 4


def test_the_devices_do_not_wait_for_a_file(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the first file is being written, all other shards are read and embedded."""
    source = Source(tmp_path)
    write, may_go_on = file.write, threading.Event()

    def slow(path: epath.Path, content: Embeddings) -> None:
        if path.name == "0.safetensors":
            assert may_go_on.wait(60)
        write(path, content)

    def items(shard: Shard, named: Named) -> Iterator[Item]:
        yield from source.items(shard, named)
        if shard.number == 3:
            may_go_on.set()  # only a run that reads on gets here

    monkeypatch.setattr(file, "write", slow)
    source.embed(items=items)
    assert len(names(tmp_path)) == 4


def test_a_slow_disk_stops_the_reading(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory is bounded: few shards are open or waiting to be written."""
    source = Source(tmp_path)
    write = file.write

    def slow(path: epath.Path, content: Embeddings) -> None:
        time.sleep(0.3)
        begun.append(max(source.read) - int(path.name.split(".")[0]))
        write(path, content)

    begun: list[int] = []
    monkeypatch.setattr(file, "write", slow)
    jobs = [
        dataclasses.replace(
            source.jobs[0],
            shard=dataclasses.replace(source.jobs[0].shard, number=i, file_name=f"shard{i}"),
            path=epath.Path(tmp_path) / f"{i}.safetensors",
        )
        for i in range(16)
    ]
    source.inputs = np.tile(INPUTS, (4, 1))
    source.embed(jobs=jobs)
    assert len(begun) == 16 and max(begun) <= 8


def test_a_claimed_shard_is_left_to_its_process_and_taken_over_when_it_ends(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = Source(tmp_path)
    held = [try_lock(source.jobs[i].path) for i in (1, 2)]
    assert all(held) and try_lock(source.jobs[1].path) is None
    other = Source(tmp_path)

    def others() -> None:
        """The process that has both claims writes one file, and dies over the other."""
        while not (tmp_path / "3.safetensors").exists():
            time.sleep(0.01)
        vectors = expected_vectors(INPUTS[9:18]).astype(np.float32)
        ids = tuple(f"{i}" for i in range(9))
        job = other.jobs[1]
        write(job.path, Embeddings(ids, vectors, np.arange(9), job.fingerprint))
        for one in held:
            one.close()

    thread = threading.Thread(target=others)
    thread.start()
    timing = source.embed()
    thread.join()
    assert source.read == [0, 3, 2]
    assert (timing.items, timing.skipped) == (27, 10)
    assert (
        "2 shards, first" in caplog.text and "embedded by another process; waiting" in caplog.text
    )
    assert names(tmp_path) == [f"{i}.safetensors" for i in range(4)]
