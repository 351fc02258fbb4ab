"""Embedding: batches, devices and padding change nothing; shards are embedded once and whole."""

import dataclasses
import errno
import functools
import pathlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from ilias_jax import embeddings as files
from ilias_jax.preprocessing.batching import Batch, Item, PatchItem, batch_items, batch_rows, bucket_lengths
from ilias_jax.files import try_lock
from ilias_jax.embeddings.embedder import Embedder, collect, place_parameters
from ilias_jax.embeddings.shards import Named, ShardJob, embed_shards, is_done
from ilias_jax.errors import UserError
from ilias_jax.embeddings.extract import images_forward
from ilias_jax.mesh import make_mesh
from ilias_jax.model import Model
from ilias_jax.preprocessing.decode import to_patches
from ilias_jax.records import Shard
from ilias_jax.profiling import StageTime, Timings
from ilias_jax.towers.big_vision import parameter_shapes
from ilias_jax.towers.layers import Width
from ilias_jax.towers.load import tower_model
from ilias_jax.towers.siglip import siglip

RNG = np.random.default_rng(0)
WEIGHTS = RNG.normal(size=(6, 5)).astype(np.float32)
INPUTS = RNG.normal(size=(37, 6)).astype(np.float32)
PATCH, RESOLUTION = 4, 16


def forward(weights: jax.Array, x: jax.Array) -> jax.Array:
    return jnp.tanh(x @ weights)


def expected_vectors(inputs: np.ndarray = INPUTS) -> np.ndarray:
    """Slow oracle of `forward` and the normalisation, in float64."""
    raw = np.tanh(inputs.astype(np.float64) @ WEIGHTS.astype(np.float64))
    return raw / np.linalg.norm(raw, axis=1, keepdims=True)


def small_embedder(num_devices: int = 1, batch_size_per_device: int = 4) -> Embedder:
    mesh = make_mesh(devices=jax.devices()[:num_devices])
    return Embedder(forward, place_parameters(WEIGHTS, mesh), mesh, batch_size_per_device)


def embed(embedder: Embedder, inputs: np.ndarray = INPUTS) -> np.ndarray:
    results = embedder.run(batch_rows(inputs, embedder.batch_size))
    return collect(results, [f"input {row}" for row in range(len(inputs))], "inputs")


@functools.cache
def tiny_siglip() -> Model:
    """An image tower with random weights."""
    size = Width(32, 2, 64, 2)
    config = siglip(size, size, PATCH, native_grid=3, vocab_size=8, text_length=4)
    rng = np.random.default_rng(2)
    parameters = {
        path: rng.normal(size=shape, scale=0.2).astype(np.float32)
        for path, shape in parameter_shapes(config).items()
    }
    return tower_model("tiny", config, parameters, None, RESOLUTION, "float32", {})


def images(max_short_side: int) -> list[PatchItem]:
    """29 pictures of noise with the longest side at the resolution, as the reader gives them."""
    rng = np.random.default_rng(1)
    items = []
    for row in range(29):
        shape = (RESOLUTION, int(rng.integers(1, max_short_side + 1)))
        shape = shape if row % 2 else shape[::-1]
        patches = to_patches(rng.integers(0, 256, (*shape, 3)).astype(np.uint8), PATCH)
        items.append(PatchItem(row, patches.pixels, patches.size))
    return items


@functools.cache
def tower_vectors(num_devices: int, batch_size_per_device: int, num_buckets: int) -> np.ndarray:
    """Images of 4 and 8 tokens through the tower; only explicit transfers are allowed."""
    model = tiny_siglip()
    mesh = make_mesh(devices=jax.devices()[:num_devices])
    parameters = place_parameters(model.parameters, mesh)
    call = functools.partial(images_forward, model)
    embedder = Embedder(call, parameters, mesh, batch_size_per_device)
    lengths = bucket_lengths(model.preprocessing, num_buckets)
    with jax.transfer_guard("disallow"):
        batches = batch_items(images(RESOLUTION // 2), lengths, embedder.batch_size)
        return collect(embedder.run(batches), ["image"] * 29, "noise")


@pytest.mark.parametrize("num_devices", [1, 8])
@pytest.mark.parametrize("batch_size", [1, 4, 5, 64])
def test_vectors_are_right_whatever_the_batch_size(num_devices: int, batch_size: int) -> None:
    embedder = small_embedder(num_devices, batch_size)
    assert embedder.batch_size == num_devices * batch_size
    vectors = embed(embedder)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, expected_vectors(), rtol=1e-5, atol=1e-6)


def test_eight_devices_give_the_bits_of_one() -> None:
    np.testing.assert_array_equal(embed(small_embedder(8)), embed(small_embedder(1)))


def test_eight_devices_give_the_bits_of_one_through_a_tower() -> None:
    np.testing.assert_array_equal(tower_vectors(8, 2, 1), tower_vectors(1, 2, 1))


def test_a_tower_embeds_an_image_alone_and_unpadded_as_in_a_batch() -> None:
    alone = tower_vectors(1, 1, RESOLUTION // PATCH)
    np.testing.assert_allclose(np.linalg.norm(alone, axis=1), 1, rtol=1e-5)
    gaps = np.linalg.norm(alone[:, None] - alone[None], axis=2) + np.eye(len(alone))
    assert gaps.min() > 1e-2  # so that a mixed-up row is far beyond the tolerance
    np.testing.assert_allclose(tower_vectors(8, 2, 1), alone, atol=2e-5)


def test_padded_rows_are_poisoned_and_dropped() -> None:
    embedder = small_embedder(8, 1)
    (batch,) = batch_rows(INPUTS[:5], embedder.batch_size)
    on_device = np.asarray(embedder._dispatch(batch))
    assert np.isfinite(on_device[:5]).all() and np.isnan(on_device[5:]).all()
    ((rows, vectors),) = embedder.run([batch])
    assert rows.tolist() == [0, 1, 2, 3, 4] and np.isfinite(vectors).all()
    # Were padding taken for an item, collect would say so.
    with pytest.raises(UserError, match="NaN or infinity for 3 of 8 items, first 5, 6, 7;"):
        collect([(np.arange(8), on_device)], [*"01234567"], "inputs")


def test_a_zero_vector_is_no_nan() -> None:
    vectors = embed(small_embedder(), np.zeros((3, 6), np.float32))
    np.testing.assert_array_equal(vectors, np.zeros((3, 5)))


def test_nan_of_the_model_is_reported() -> None:
    inputs = INPUTS.copy()
    inputs[11, 2] = np.nan
    message = "inputs: the model gave NaN or infinity for 1 of 37 items, first input 11;"
    with pytest.raises(UserError, match=message):
        embed(small_embedder(), inputs)


def test_one_compilation_for_every_bucket_used() -> None:
    def cheap(weights: jax.Array, patches: jax.Array, size: jax.Array) -> jax.Array:
        return patches.astype(jnp.float32).sum(axis=1)[:, :6] @ weights + size.sum(axis=1)[:, None]

    mesh = make_mesh()
    embedder = Embedder(cheap, place_parameters(WEIGHTS, mesh), mesh, 1)
    batches = list(batch_items(images(RESOLUTION), (4, 8, 12, 16, 20), embedder.batch_size))
    buckets = {batch.arrays[0].shape[1] for batch in batches}
    assert buckets == {4, 8, 12, 16} and len(batches) > 5
    timings = Timings()
    with timings.stage("embed") as first:
        list(embedder.run(batches))
    with timings.stage("again") as again:
        list(embedder.run(batches))
    assert (first.compiles, again.compiles) == (4, 0)


def test_the_transfer_guard_is_awake() -> None:
    with jax.transfer_guard("disallow"):
        embed(small_embedder(8))
    careless = small_embedder()
    careless._parameters = WEIGHTS  # left on the host
    with (
        pytest.raises(jax.errors.JaxRuntimeError, match="Disallowed host-to-device transfer"),
        jax.transfer_guard("disallow"),
    ):
        embed(careless)


def test_few_batches_are_in_flight() -> None:
    drawn = 0

    def source() -> Iterator[Batch]:
        nonlocal drawn
        for batch in batch_rows(INPUTS, 4):
            drawn += 1
            yield batch

    next(small_embedder().run(source()))
    assert drawn == 3  # of 10


def test_collect_puts_rows_in_order() -> None:
    parts = [(np.array([3, 0]), INPUTS[[3, 0]]), (np.array([2, 1]), INPUTS[[2, 1]])]
    np.testing.assert_array_equal(collect(parts, [*"0123"], ""), INPUTS[:4])
    assert collect([], [], "").shape == (0, 0)


@pytest.mark.parametrize("rows", [[0, 1], [0, 1, 1], [0, 1, 3], [0, 1, 2, 2], [-1, 0, 1]])
def test_collect_refuses_missing_and_repeated_rows(rows: list[int]) -> None:
    with pytest.raises(RuntimeError, match=f"shard: {len(rows)} embeddings for 3 items"):
        collect([(np.array(rows), INPUTS[: len(rows)])], [*"012"], "shard")
    with pytest.raises(RuntimeError, match="0 embeddings for 3 items"):
        collect([], [*"012"], "shard")


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
            yield PatchItem(row, patches, (1, 1))
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
        embed_shards(jobs, items or self.items, embedder, (1, 2), dtype, timing, "embed")
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
        found = files.read(job.path)
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
    whole.embed(num_devices=8)
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
    def full(path: epath.Path, content: files.Embeddings) -> None:
        if path.name == "1.safetensors":
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, content)

    write = files.write
    monkeypatch.setattr(files, "write", full)
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
    write, may_go_on = files.write, threading.Event()

    def slow(path: epath.Path, content: files.Embeddings) -> None:
        if path.name == "0.safetensors":
            assert may_go_on.wait(60)
        write(path, content)

    def items(shard: Shard, named: Named) -> Iterator[Item]:
        yield from source.items(shard, named)
        if shard.number == 3:
            may_go_on.set()  # only a run that reads on gets here

    monkeypatch.setattr(files, "write", slow)
    source.embed(items=items)
    assert len(names(tmp_path)) == 4


def test_a_slow_disk_stops_the_reading(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory is bounded: few shards are open or waiting to be written."""
    source = Source(tmp_path)
    write = files.write

    def slow(path: epath.Path, content: files.Embeddings) -> None:
        time.sleep(0.3)
        begun.append(max(source.read) - int(path.name.split(".")[0]))
        write(path, content)

    begun: list[int] = []
    monkeypatch.setattr(files, "write", slow)
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
    held = [claim(source.jobs[i].path) for i in (1, 2)]
    assert all(held) and claim(source.jobs[1].path) is None
    other = Source(tmp_path)

    def others() -> None:
        """The process that has both claims writes one file, and dies over the other."""
        while not (tmp_path / "3.safetensors").exists():
            time.sleep(0.01)
        vectors = expected_vectors(INPUTS[9:18]).astype(np.float32)
        ids = tuple(f"{i}" for i in range(9))
        job = other.jobs[1]
        files.write(job.path, files.Embeddings(ids, vectors, np.arange(9), job.fingerprint))
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
