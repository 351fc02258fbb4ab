"""Training of the adapter against PyTorch on the same weights and batches."""

import pathlib

import adapt_inputs as seeded
import jax
import numpy as np
import pytest

from ilias_jax.adaptation.train import Recipe, batch_order, initial_layers, run_epoch, start

VALUES = pathlib.Path(__file__).parents[1] / "data" / "adapt_values.npz"


def _recipe(case: seeded.Case, **changes) -> Recipe:
    values = {
        "dim": seeded.DIM,
        "batch_size": seeded.BATCH_SIZE,
        "learning_rate": case.learning_rate,
        "weight_decay": case.weight_decay,
        **changes,
    }
    return Recipe(**values)


def _train(recipe: Recipe, rows: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Losses of all steps and the layers after them."""
    state, losses = start(recipe, seeded.layers()), []
    for order in seeded.order():
        state, values = run_epoch(state, rows, seeded.embeddings()[1], order, recipe=recipe)
        losses.append(values)
    return np.concatenate(losses), jax.device_get(state.layers)


def _relative(found: np.ndarray, expected: np.ndarray) -> float:
    """Largest difference over the largest value."""
    return float(np.abs(found - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize("name", seeded.CASES)
def test_two_hundred_steps_equal_pytorchs(name):
    losses, layers = _train(_recipe(seeded.CASES[name]), seeded.embeddings()[0])
    with np.load(VALUES) as expected:
        assert losses.shape == (200,)
        assert losses[-1] < losses[0] / 5  # it learned: agreement of a standstill says nothing
        np.testing.assert_allclose(losses, expected[f"{name}/losses"], rtol=1e-4)
        for key, array in layers.items():
            assert _relative(array, expected[f"{name}/{key}"]) < 1e-4, key


@pytest.mark.parametrize("change", [{"weight_decay": 0.0}, {"scale": 15.0}])
def test_what_differs_from_the_recipe_is_seen(change):
    recipe = _recipe(seeded.CASES["strong_decay"], **change)
    losses, _ = _train(recipe, seeded.embeddings()[0])
    with np.load(VALUES) as expected:
        assert _relative(losses, expected["strong_decay/losses"]) > 1e-2


def test_stored_float16_trains_as_its_float32_copy():
    recipe = _recipe(seeded.CASES["published"])
    rows = seeded.embeddings()[0]
    half, half_layers = _train(recipe, rows)
    full, full_layers = _train(recipe, rows.astype(np.float32))
    np.testing.assert_allclose(half, full, rtol=1e-6)
    assert _relative(half_layers["weight"], full_layers["weight"]) < 1e-6


def test_memory_does_not_hold_a_float32_copy():
    recipe = _recipe(seeded.CASES["published"])
    count = 100_000
    shapes = jax.eval_shape(lambda: start(recipe, seeded.layers()))
    program = run_epoch.lower(
        shapes,
        jax.ShapeDtypeStruct((count, seeded.INPUT_DIM), np.float16),
        jax.ShapeDtypeStruct((count,), np.int32),
        jax.ShapeDtypeStruct((count // seeded.BATCH_SIZE, seeded.BATCH_SIZE), np.int32),
        recipe=recipe,
    ).compile()
    temporary = program.memory_analysis().temp_size_in_bytes
    assert temporary < count * seeded.INPUT_DIM * 2  # less than the rows themselves


def test_a_row_of_zeros_has_a_finite_gradient():
    recipe = _recipe(seeded.CASES["published"])
    rows = seeded.embeddings()[0].copy()
    rows[:100] = 0
    losses, layers = _train(recipe, rows)
    assert np.isfinite(losses).all() and np.isfinite(layers["weight"]).all()


def test_batches_hold_each_row_once_and_follow_the_seed():
    recipe = Recipe(batch_size=7)
    order = batch_order(recipe, 100, epoch=0)
    assert order.shape == (14, 7) and order.dtype == np.int32
    assert len(set(order.ravel().tolist())) == 98 and order.min() >= 0 and order.max() < 100
    np.testing.assert_array_equal(order, batch_order(recipe, 100, epoch=0))
    assert (order != batch_order(recipe, 100, epoch=1)).any()
    assert (order != batch_order(Recipe(batch_size=7, seed=1), 100, epoch=0)).any()


def test_first_weights_have_pytorchs_spread():
    layers = initial_layers(Recipe(dim=256), 768, 1000)
    weight, classifier = layers["weight"], layers["classifier"]
    assert weight.shape == (256, 768) and classifier.shape == (1000, 256)
    assert weight.dtype == classifier.dtype == np.float32
    for array, bound in ((weight, (6 / 1024) ** 0.5), (classifier, 1 / 16)):
        assert np.abs(array).max() <= bound
        assert array.std() == pytest.approx(bound / 3**0.5, rel=0.01)
    np.testing.assert_array_equal(layers["bias"], np.zeros(256))
    again = initial_layers(Recipe(dim=256), 768, 1000)
    np.testing.assert_array_equal(weight, again["weight"])
    assert (weight != initial_layers(Recipe(dim=256, seed=1), 768, 1000)["weight"]).any()
