"""Embedding: batches, devices and padding change nothing; results come in order."""

import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ilias_jax.embeddings.embedder import Collected, Embedder, collect, place_parameters
from ilias_jax.embeddings.extract import images_forward
from ilias_jax.errors import UserError
from ilias_jax.mesh import make_mesh
from ilias_jax.model import Model
from ilias_jax.models.layers import TransformerSize
from ilias_jax.models.load import tower_model
from ilias_jax.models.parameters import parameter_shapes
from ilias_jax.models.registry.siglip import siglip
from ilias_jax.preprocessing.batching import Batch, Item, batch_items, batch_rows, bucket_shapes
from ilias_jax.preprocessing.decode import to_patches
from ilias_jax.profiling import Timings

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
    size = TransformerSize(32, 2, 64, 2)
    config = siglip(size, size, PATCH, native_grid=3, vocab_size=8, text_length=4)
    rng = np.random.default_rng(2)
    parameters = {
        path: rng.normal(size=shape, scale=0.2).astype(np.float32)
        for path, shape in parameter_shapes(config).items()
    }
    return tower_model("tiny", config, parameters, None, RESOLUTION, "float32", {})


def images(max_short_side: int) -> list[Item]:
    """29 images of noise with the longest side at the resolution, as the reader gives them."""
    rng = np.random.default_rng(1)
    items = []
    for row in range(29):
        shape = (RESOLUTION, int(rng.integers(1, max_short_side + 1)))
        shape = shape if row % 2 else shape[::-1]
        patches = to_patches(rng.integers(0, 256, (*shape, 3)).astype(np.uint8), PATCH)
        items.append((row, patches))
    return items


@functools.cache
def tower_vectors(num_devices: int, batch_size_per_device: int, num_buckets: int) -> np.ndarray:
    """Images of 4 and 8 tokens through the tower; only explicit transfers are allowed."""
    model = tiny_siglip()
    mesh = make_mesh(devices=jax.devices()[:num_devices])
    parameters = place_parameters(model.parameters, mesh)
    call = functools.partial(images_forward, model)
    embedder = Embedder(call, parameters, mesh, batch_size_per_device)
    shapes = bucket_shapes(model.preprocessing, num_buckets)
    with jax.transfer_guard("disallow"):
        batches = batch_items(images(RESOLUTION // 2), shapes, embedder.batch_size)
        return collect(embedder.run(batches), ["image"] * 29, "noise")


@pytest.mark.parametrize("num_devices", [1, 2])
@pytest.mark.parametrize("batch_size", [1, 4, 5, 64])
def test_vectors_are_right_whatever_the_batch_size(num_devices: int, batch_size: int) -> None:
    embedder = small_embedder(num_devices, batch_size)
    assert embedder.batch_size == num_devices * batch_size
    vectors = embed(embedder)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, expected_vectors(), rtol=1e-5, atol=1e-6)


def test_two_devices_give_the_bits_of_one() -> None:
    np.testing.assert_array_equal(embed(small_embedder(2)), embed(small_embedder(1)))
    np.testing.assert_array_equal(tower_vectors(2, 2, 1), tower_vectors(1, 2, 1))


@pytest.mark.eight_devices
def test_eight_devices_give_the_bits_of_one() -> None:
    np.testing.assert_array_equal(embed(small_embedder(8)), embed(small_embedder(1)))
    np.testing.assert_array_equal(tower_vectors(8, 2, 1), tower_vectors(1, 2, 1))


def test_a_tower_embeds_an_image_alone_and_unpadded_as_in_a_batch() -> None:
    alone = tower_vectors(1, 1, RESOLUTION // PATCH)
    np.testing.assert_allclose(np.linalg.norm(alone, axis=1), 1, rtol=1e-5)
    gaps = np.linalg.norm(alone[:, None] - alone[None], axis=2) + np.eye(len(alone))
    assert gaps.min() > 1e-2  # so that a mixed-up row is far beyond the tolerance
    np.testing.assert_allclose(tower_vectors(2, 2, 1), alone, atol=2e-5)


def test_padded_rows_are_poisoned_and_dropped() -> None:
    embedder = small_embedder(2, 4)
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
    batches = list(
        batch_items(images(RESOLUTION), [(n,) for n in (4, 8, 12, 16, 20)], embedder.batch_size)
    )
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
        embed(small_embedder(2))
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


@pytest.mark.parametrize("seed", range(3))
def test_views_in_any_order_give_the_normalised_mean_of_each_image(seed: int) -> None:
    rng = np.random.default_rng(seed)
    views = rng.normal(size=(4, 3, 5)).astype(np.float32)  # of 4 images, 3 views each
    collected, counts = Collected(3), []
    for rows in np.split(rng.permutation(12), [1, 5, 6]):
        counts.append(collected.add(rows, views.reshape(12, 5)[rows]))
    assert sum(counts) == collected.count == 4
    means = views.mean(axis=1)  # in the order of the views: the same bits
    expected = means / np.linalg.norm(means, axis=1, keepdims=True)
    np.testing.assert_array_equal(collected.result([*"0123"], ""), expected)
