"""Embedding: batches, devices and padding change nothing; shards are embedded once and whole."""

import functools
import pathlib
from collections.abc import Iterable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from ilias_jax import embeddings as files
from ilias_jax.batching import Batch, PatchItem, batch_patches, batch_rows, bucket_lengths
from ilias_jax.embed import (
    Embedder,
    Named,
    ShardJob,
    collect,
    embed_shards,
    is_done,
    place_parameters,
)
from ilias_jax.errors import UserError
from ilias_jax.extraction import images_forward
from ilias_jax.mesh import make_mesh
from ilias_jax.model import Model
from ilias_jax.pixels.host import to_patches
from ilias_jax.records import Shard
from ilias_jax.timings import StageTime, Timings
from ilias_jax.towers.big_vision import parameter_shapes
from ilias_jax.towers.layers import Width
from ilias_jax.towers.load import siglip_model
from ilias_jax.towers.siglip import SiglipConfig

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
    return collect(embedder.run(batch_rows(inputs, embedder.batch_size)), len(inputs))


@functools.cache
def tiny_siglip() -> Model:
    """An image tower with random weights."""
    size = Width(32, 2, 64, 2)
    config = SiglipConfig(size, size, PATCH, native_grid=3, vocab_size=8, text_length=4)
    rng = np.random.default_rng(2)
    parameters = {
        path: rng.normal(size=shape, scale=0.2).astype(np.float32)
        for path, shape in parameter_shapes(config).items()
    }
    return siglip_model("tiny", config, parameters, None, RESOLUTION, "float32", {})


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
    lengths = bucket_lengths(RESOLUTION // PATCH, num_buckets)
    with jax.transfer_guard("disallow"):
        batches = batch_patches(images(RESOLUTION // 2), lengths, embedder.batch_size)
        return collect(embedder.run(batches), 29)


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
    with pytest.raises(RuntimeError, match="NaN or infinity for 3 items, first 5"):
        collect([(np.arange(8), on_device)], 8)


def test_a_zero_vector_is_no_nan() -> None:
    vectors = embed(small_embedder(), np.zeros((3, 6), np.float32))
    np.testing.assert_array_equal(vectors, np.zeros((3, 5)))


def test_nan_of_the_model_is_reported() -> None:
    inputs = INPUTS.copy()
    inputs[11, 2] = np.nan
    with pytest.raises(RuntimeError, match="NaN or infinity for 1 items, first 11"):
        embed(small_embedder(), inputs)


def test_one_compilation_for_every_bucket_used() -> None:
    def cheap(weights: jax.Array, patches: jax.Array, size: jax.Array) -> jax.Array:
        return patches.astype(jnp.float32).sum(axis=1)[:, :6] @ weights + size.sum(axis=1)[:, None]

    mesh = make_mesh()
    embedder = Embedder(cheap, place_parameters(WEIGHTS, mesh), mesh, 1)
    batches = list(batch_patches(images(RESOLUTION), (4, 8, 12, 16, 20), embedder.batch_size))
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
    np.testing.assert_array_equal(collect(parts, 4), INPUTS[:4])
    assert collect([], 0).shape == (0, 0)


@pytest.mark.parametrize("rows", [[0, 1], [0, 1, 1], [0, 1, 3], [0, 1, 2, 2], [-1, 0, 1]])
def test_collect_refuses_missing_and_repeated_rows(rows: list[int]) -> None:
    with pytest.raises(RuntimeError, match=f"{len(rows)} embeddings for 3 items"):
        collect([(np.array(rows), INPUTS[: len(rows)])], 3)
    with pytest.raises(RuntimeError, match="0 embeddings for 3 items"):
        collect([], 3)


class Source:
    """Shards of made-up rows; shard i holds rows 10 i to 10 i + 9, the record 3 unreadable."""

    def __init__(self, folder: pathlib.Path, broken: int | None = None, weights: str = "a") -> None:
        self.jobs = [
            ShardJob(
                Shard("distractor", i, 3, 10, f"shard{i}", 1000 + i, "digest"),
                epath.Path(folder) / f"{i}.safetensors",
                {"weights": weights, "source": i},
            )
            for i in range(3)
        ]
        self.broken = broken
        self.read: list[int] = []

    def batches(self, shard: Shard, named: Named) -> Iterator[Batch]:
        self.read.append(shard.number)
        for batch in batch_rows(INPUTS[10 * shard.number :][:9], 4):
            yield batch
            if shard.number == self.broken:
                raise OSError("the disk is gone")
        kept = [number for number in range(10) if number != 3]
        named.numbers.extend(kept)
        named.ids.extend(f"{shard.file_name}/{number}" for number in kept)
        named.rejected.append((f"{shard.file_name}/3", "truncated"))

    def embed(self, dtype: str = "float32") -> StageTime:
        timing = StageTime()
        embed_shards(self.jobs, self.batches, small_embedder(), dtype, timing, "embed")
        return timing


def names(folder: pathlib.Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_a_shard_becomes_a_file(
    tmp_path: pathlib.Path, dtype: str, capsys: pytest.CaptureFixture[str]
) -> None:
    source = Source(tmp_path)
    timing = source.embed(dtype)
    assert (timing.items, timing.skipped, source.read) == (27, 0, [0, 1, 2])
    assert "embed: 30 of 30 in" in capsys.readouterr().out  # rejected records are done too
    assert names(tmp_path) == ["0.safetensors", "1.safetensors", "2.safetensors"]
    for i, job in enumerate(source.jobs):
        found = files.read(job.path)
        assert found.fingerprint == {"weights": "a", "source": i}
        assert found.numbers.tolist() == [0, 1, 2, 4, 5, 6, 7, 8, 9]
        assert found.ids == tuple(f"shard{i}/{number}" for number in found.numbers)
        assert found.rejected == ((f"shard{i}/3", "truncated"),)
        assert found.vectors.dtype == dtype
        tolerance = 1e-5 if dtype == "float32" else 1e-3
        expected = expected_vectors(INPUTS[10 * i : 10 * i + 9])
        np.testing.assert_allclose(found.vectors, expected, atol=tolerance)


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
    assert (timing.items, timing.skipped) == (9, 20)
    assert (tmp_path / "0.safetensors").stat().st_mtime_ns == before
    assert "embed: 30 of 30 in" in capsys.readouterr().out


def test_files_of_other_weights_are_embedded_again(tmp_path: pathlib.Path) -> None:
    Source(tmp_path, weights="a").embed()
    source = Source(tmp_path, weights="b")
    assert not any(is_done(job.path, job.fingerprint) for job in source.jobs)
    timing = source.embed()
    assert (timing.items, timing.skipped) == (27, 0)
    assert all(is_done(job.path, job.fingerprint) for job in source.jobs)
    assert names(tmp_path) == ["0.safetensors", "1.safetensors", "2.safetensors"]


def test_an_error_leaves_whole_files_alone(tmp_path: pathlib.Path) -> None:
    with pytest.raises(OSError, match="the disk is gone"):
        Source(tmp_path, broken=1).embed()
    assert names(tmp_path) == ["0.safetensors"]
    source = Source(tmp_path)
    source.embed()
    assert source.read == [1, 2]


def test_a_foreign_file_in_the_way_is_named(tmp_path: pathlib.Path) -> None:
    (tmp_path / "2.safetensors").write_text("what is this, and who put it here?")
    with pytest.raises(UserError, match="2.safetensors is no embedding file"):
        Source(tmp_path).embed()


def test_a_lost_item_is_noticed(tmp_path: pathlib.Path) -> None:
    source = Source(tmp_path)
    whole = source.batches

    def one_short(shard: Shard, named: Named) -> Iterable[Batch]:
        yield from list(whole(shard, named))[:-1]

    with pytest.raises(RuntimeError, match="8 embeddings for 9 items"):
        embed_shards(source.jobs, one_short, small_embedder(), "float32", StageTime(), "embed")
    assert names(tmp_path) == []
