"""Detectors and the selection of the strongest tokens, beside slow ones in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from local_descriptor_cases import CASES

from ilias_jax.errors import UserError
from ilias_jax.rerank.detector import read_detector, strongest

DIM = CASES[0].size[0]


@pytest.fixture
def state():
    """A detector's state dictionary."""
    return CASES[0].weights("detector_layout")


def _write(state, folder, prefix="state.") -> str:
    np.savez(folder / "detector.npz", **{f"{prefix}{k}": v for k, v in state.items()})
    return str(folder / "detector.npz")


def _slowly(state, tokens):
    """Normalised map and attention of [T, D], a layer after the other in float64."""
    state = {name: value.astype(np.float64) for name, value in state.items()}
    y = tokens @ state["conv1.weight"][:, :, 0, 0].T + state["conv1.bias"]
    y = (y - state["bn.running_mean"]) / np.sqrt(state["bn.running_var"] + 1e-5)
    y = y * state["bn.weight"] + state["bn.bias"]
    logits = np.maximum(y, 0) @ state["conv2.weight"][0, :, 0, 0] + state["conv2.bias"]
    return y / np.linalg.norm(y, axis=-1, keepdims=True), np.log1p(np.exp(logits))


@pytest.mark.parametrize("prefix", ["state.", ""])
def test_a_detector_is_its_layers_one_by_one(state, prefix, tmp_path):
    state["bn.running_var"] = state["bn.running_var"] * np.float32(0.01)  # the epsilon counts
    detector = read_detector(_write(state, tmp_path, prefix), DIM)
    tokens = np.random.default_rng(0).standard_normal((2, 30, DIM)).astype(np.float32)
    found = jax.jit(detector)(detector.parameters, tokens)
    for value, expected in zip(found, _slowly(state, tokens), strict=True):
        assert value.dtype == np.float32 and value.shape == expected.shape
        np.testing.assert_allclose(value, expected, rtol=0, atol=1e-6 * expected.max())


def test_a_token_of_nothing_is_no_nan(state, tmp_path):
    zeros = {name: np.zeros_like(value) for name, value in state.items()}
    detector = read_detector(_write(zeros, tmp_path), DIM)
    values, weights = detector(detector.parameters, jnp.ones((1, 1, DIM)))
    assert not values.any()
    np.testing.assert_allclose(weights, np.log(2), rtol=1e-6)


def test_all_that_does_not_fit_is_named(state, tmp_path):
    del state["bn.running_var"]
    state["conv3.bias"] = state["conv2.bias"]
    state["conv2.weight"] = state["conv2.weight"][:, :5]
    state["conv1.bias"] = state["conv1.bias"] * np.float32(np.nan)
    message = (
        "rerank.detector: .*detector.npz does not fit: bn.running_var is missing; conv3.bias is "
        r"not known; conv1.bias holds NaN or infinity; conv2.weight has shape \(1, 5, 1, 1\), not "
        r"\(1, 48, 1, 1\)"
    )
    with pytest.raises(UserError, match=message):
        read_detector(_write(state, tmp_path), DIM)


GRIDS = np.array([[3, 4], [1, 5], [4, 3], [1, 1]], np.int32)
_choose = jax.jit(strongest, static_argnums=3)


def _tokens():
    """Values [4, 12, 2] and weights [4, 12] with many ties, NaN where there is no token."""
    rng = np.random.default_rng(1)
    weights = rng.integers(0, 4, (4, 12)).astype(np.float32)
    values = rng.standard_normal((4, 12, 2)).astype(np.float32)
    padding = np.arange(12) >= GRIDS.prod(axis=1)[:, None]
    values[padding], weights[padding] = np.nan, np.nan
    return values, weights


@pytest.mark.parametrize("count", [1, 4, 12, 15])
def test_the_strongest_are_chosen_and_of_equal_ones_the_first(count):
    values, weights = _tokens()
    found = [np.asarray(each) for each in _choose(values, weights, GRIDS, count)]
    for i, (rows, columns) in enumerate(GRIDS.tolist()):
        number = rows * columns
        order = sorted(range(number), key=lambda token: (-weights[i, token], token))[:count]
        centres = [((t // columns + 0.5) / rows, (t % columns + 0.5) / columns) for t in order]
        expected = values[i, order], np.array(centres), weights[i, order]
        assert found[3][i] == len(order)
        for array, wanted in zip(found, expected, strict=False):
            np.testing.assert_allclose(array[i, : len(order)], wanted, rtol=1e-6)
            assert array.shape[:2] == (4, count) and not array[i, len(order) :].any()


def test_the_last_tokens_of_a_batch_do_not_change_an_image():
    values, weights = _tokens()
    whole = _choose(values, weights, GRIDS, 5)
    wider = np.pad(values, ((0, 0), (0, 3), (0, 0))), np.pad(weights, ((0, 0), (0, 3)))
    for one, other in zip(whole, _choose(*wider, GRIDS, 5), strict=True):
        np.testing.assert_array_equal(one, other)
