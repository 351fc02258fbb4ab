import numpy as np
import pytest
from parity_summary import image_layers, layer_errors, summarise, text_layers, where_they_part

LAYERS = image_layers(2)
TOLERANCE = 1e-4


def trace(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(3, len(LAYERS), 8)).astype(np.float32)


def test_the_layers_are_in_the_order_of_the_towers():
    blocks = ["block 0", "block 1"]
    assert ["patch embedding", "position", *blocks, "final norm", "pooling head"] == LAYERS
    assert text_layers(2) == ["token embedding", "position", *blocks, "final norm", "projection"]


def test_a_summary_is_linear_and_of_the_size_of_the_tokens():
    tokens = np.random.default_rng(1).normal(size=(2, 500, 64))
    first, second = (summarise(part) for part in tokens)
    np.testing.assert_allclose(summarise(tokens[0] + 3 * tokens[1]), first + 3 * second, atol=1e-5)
    assert 0.3 < np.sqrt(np.square([first, second]).mean()) < 3


def test_a_summary_sees_the_order_of_tokens_and_of_channels():
    tokens = np.random.default_rng(1).normal(size=(20, 16))
    for other in (tokens[::-1], tokens[:, ::-1]):
        assert np.abs(summarise(other) - summarise(tokens)).max() > 0.1


def test_errors_are_relative_to_the_layer():
    reference = trace()
    reference[:, 3] *= 1000
    typical = np.sqrt(np.square(reference[:, 3]).mean())
    ours = reference.copy()
    ours[1, 3, 5] += 1e-3 * typical
    errors = layer_errors(ours, reference)
    np.testing.assert_allclose(errors[3], 1e-3, rtol=1e-3)
    assert np.delete(errors, 3).max() == 0


@pytest.mark.parametrize("first", range(len(LAYERS)))
@pytest.mark.parametrize("wrong", [1.0, np.nan])
def test_the_first_layer_is_named_also_when_all_later_ones_differ_more(first, wrong):
    ours = trace()
    ours[:, first] += 0.01 * wrong
    ours[:, first + 1 :] += wrong
    message = where_they_part(LAYERS, ours, trace(), TOLERANCE)
    assert message.startswith(f"first differs at {LAYERS[first]}: ")


def test_layers_that_agree_leave_the_blame_to_how_they_are_put_together():
    message = where_they_part(LAYERS, trace() * (1 + 1e-6), trace(), TOLERANCE)
    assert message.startswith("no layer run by itself differs by more than 1e-04")
