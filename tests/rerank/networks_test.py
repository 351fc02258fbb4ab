"""AMES and ELViS against the scores of their authors' code, and what those scores can tell apart."""

import json

import jax
import local_world as world
import numpy as np
import pytest
from local_oracle import ORACLES, UNSEEN
from local_pairs import LARGE, NETWORKS, SMALL, unit

from ilias_jax.errors import UserError
from ilias_jax.rerank import ames, elvis
from ilias_jax.rerank.layers import Products, Remap

LIMITS = {name: limit for name, (_, _, limit) in ORACLES.items()}
SOME = ((0, 0), (0, 3), (1, 1))  # pairs of SMALL
BY_NAME = pytest.mark.parametrize("network", NETWORKS, ids=lambda each: each.name)


def _expected(network, name):
    with np.load(network.path) as stored:
        return stored[name]


def _assert_equal(found, network, name):
    expected = _expected(network, name)
    np.testing.assert_allclose(found, expected, rtol=0, atol=LIMITS[network.method])
    np.testing.assert_array_equal(np.argsort(-found), np.argsort(-expected))


@BY_NAME
def test_scores_are_those_of_the_authors(network, tmp_path):
    method = world.of_network(network, tmp_path, SMALL)
    assert method.input_dim == 768 and method.facts()["binary"] == network.is_binary
    _assert_equal(world.score_pairs(method, SMALL), network, "small")


@pytest.mark.slow
@BY_NAME
def test_scores_of_600_descriptors_are_those_of_the_authors(network, tmp_path):
    method = world.of_network(network, tmp_path, LARGE)
    _assert_equal(world.score_pairs(method, LARGE), network, "large")


@pytest.mark.slow
@BY_NAME
def test_bfloat16_keeps_scores_apart(network, tmp_path):
    method = world.of_network(network, tmp_path, LARGE, dtype="bfloat16")
    found, expected = world.score_pairs(method, LARGE), _expected(network, "large")
    assert np.abs(found - expected).max() < 0.1 * expected.std()
    assert np.abs(found - expected).max() > LIMITS[network.method]


@pytest.mark.slow  # of the oracle and its data; the tests above are of the program
@BY_NAME
def test_every_mistake_would_be_seen(network):
    oracle, changes, limit = ORACLES[network.method]
    weights = {name: each.astype(np.float64) for name, each in network.weights().items()}
    queries, images = SMALL.draw()
    if network.method == "elvis":
        queries, images = ([unit(each) for each in side] for side in (queries, images))
    expected = np.array([_expected(network, "small")[pair] for pair in SOME])

    def error(change):
        found = [oracle(weights, queries[q], images[i], SMALL.padded, change) for q, i in SOME]
        return np.abs(found - expected).max()

    assert error("") < limit / 20
    seen = [each for each in changes if (network.method, network.is_binary, each) not in UNSEEN]
    assert not [each for each in seen if not error(each) > limit]


@BY_NAME
def test_tensors_are_those_of_the_authors(network):
    layout = json.loads(np.load(network.path)["layout"].tobytes())
    shapes = {"ames": ames.shapes, "elvis": elvis.shapes}[network.method]
    ours = {name: list(shape) for name, shape in shapes(Remap(network.is_binary, 768)).items()}
    unused = [name for name in layout if name.startswith("g.")]
    assert ours == {name: shape for name, shape in layout.items() if name not in unused}


@pytest.mark.parametrize("dust_bin", [-30.0, 2.0, 5.9, 30.0])
def test_elvis_bears_any_dust_bin(dust_bin):
    network = NETWORKS[2]
    weights = {**network.weights(), "dust_bin": np.float32(dust_bin)}
    queries, images = ([unit(each) for each in side] for side in SMALL.draw())
    remap = Remap.of(weights)
    comparison = elvis.ElvisComparison(remap, Products("float32"), *SMALL.padded)
    found = _elvis(comparison)(weights, queries[1], images[1])
    double = {name: each.astype(np.float64) for name, each in weights.items()}
    expected = ORACLES["elvis"][0](double, queries[1], images[1], SMALL.padded)
    assert abs(found - expected) < LIMITS["elvis"]


def _elvis(comparison, compiled={}):  # noqa: B006  one compilation for all
    def score(weights, query, image):
        project = comparison.remap.project
        sides = (project(weights, each) for each in (query, image))
        query, image = (
            each / jax.numpy.linalg.norm(each, axis=-1, keepdims=True) for each in sides
        )
        prepared = comparison.prepare(weights, query, np.int32(len(query)))
        counts = np.full(1, len(image), np.int32)
        return comparison.compare(weights, prepared, image[None], counts)[0]

    return compiled.setdefault(comparison, jax.jit(score))


def test_all_that_does_not_fit_is_named(tmp_path):
    weights = NETWORKS[0].weights()
    weights["mtc_token"] = weights["mtc_token"][:5]
    weights["encoder"] = weights.pop("classifier.bias")
    path = world.write(tmp_path, weights)
    message = (
        "weights.npz does not fit: classifier.bias is missing; encoder is not known; mtc_token"
    )
    with pytest.raises(UserError, match=message):
        world.create("ames", path)
    with pytest.raises(UserError, match="dust_bin is missing"):
        world.create("elvis", path)


@pytest.mark.parametrize("method", ["ames", "elvis"])
def test_weights_are_asked_for(method):
    with pytest.raises(UserError, match=f"rerank.method='{method}' needs rerank.weights.*http"):
        world.create(method)
