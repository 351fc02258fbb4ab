"""The mesh: axes, shardings and what they do to parameters."""

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from ilias_jax.embeddings.embedder import Embedder, collect, place_parameters
from ilias_jax.errors import UserError
from ilias_jax.mesh import (
    make_mesh,
    num_data_partitions,
    parameter_sharding,
    partitioned,
    replicated,
)
from ilias_jax.preprocessing.batching import batch_rows

pytestmark = pytest.mark.eight_devices


@pytest.mark.parametrize(("parts", "data"), [(1, 8), (2, 4), (4, 2), (8, 1)])
def test_devices_are_shared_between_the_axes(parts: int, data: int) -> None:
    mesh = make_mesh(parts)
    assert num_data_partitions(mesh) == data
    assert dict(mesh.shape) == {"data": data, "model": parts}
    assert set(mesh.devices.ravel()) == set(jax.local_devices())


def test_devices_can_be_chosen() -> None:
    chosen = jax.devices()[2:5]
    mesh = make_mesh(devices=chosen)
    assert list(mesh.devices.ravel()) == chosen and num_data_partitions(mesh) == 3


@pytest.mark.parametrize("parts", [3, 16, 0, -1])
def test_a_number_that_does_not_divide_is_refused(parts: int) -> None:
    with pytest.raises(UserError, match=f"model_partitions={parts} must divide the 8 devices"):
        make_mesh(parts)


def test_batches_are_split_and_replicas_whole() -> None:
    mesh = make_mesh(2)
    array = np.arange(24.0).reshape(8, 3)
    for sharding, shape in ((partitioned(mesh), (2, 3)), (replicated(mesh), (8, 3))):
        placed = jax.device_put(array, sharding)
        assert {shard.data.shape for shard in placed.addressable_shards} == {shape}
        np.testing.assert_array_equal(placed, array)


@pytest.mark.parametrize(
    ("shape", "spec"),
    [
        ((6, 16), PartitionSpec(None, "model")),
        ((16, 6), PartitionSpec("model")),
        ((8, 16, 15), PartitionSpec(None, "model")),
        ((4, 4), PartitionSpec("model")),
        ((3, 5), PartitionSpec()),
        ((16,), PartitionSpec()),  # biases and scales are not worth a partition
        ((), PartitionSpec()),
    ],
)
def test_the_largest_axis_that_divides_is_partitioned(
    shape: tuple[int, ...], spec: PartitionSpec
) -> None:
    assert parameter_sharding(make_mesh(4), shape).spec == spec
    assert parameter_sharding(make_mesh(1), shape).spec == PartitionSpec()


def test_partitioned_parameters_embed_like_replicated_ones() -> None:
    rng = np.random.default_rng(0)
    parameters = {
        "up": rng.normal(size=(12, 64)).astype(np.float32),
        "bias": rng.normal(size=64).astype(np.float32),
        "down": rng.normal(size=(64, 10)).astype(np.float32),
    }

    def forward(weights: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        return jax.nn.gelu(x @ weights["up"] + weights["bias"]) @ weights["down"]

    inputs = rng.normal(size=(21, 12)).astype(np.float32)
    results = []
    for parts in (1, 2, 8):
        mesh = make_mesh(parts)
        placed = place_parameters(parameters, mesh)
        widths = {shard.data.shape[1] for shard in placed["up"].addressable_shards}
        assert widths == {64 // parts}
        embedder = Embedder(forward, placed, mesh, 2)
        assert embedder.batch_size == 2 * 8 // parts
        batches = batch_rows(inputs, embedder.batch_size)
        results.append(
            collect(embedder.run(batches), [str(i) for i in range(len(inputs))], "inputs")
        )
    np.testing.assert_allclose(results[1], results[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(results[2], results[0], rtol=1e-5, atol=1e-6)
