"""Chamfer similarity by its definition, the final score, and blocks of pairs on several devices."""

import jax
import local_world as world
import numpy as np
import pytest
from local_oracle import chamfer
from local_pairs import NETWORKS, SMALL

from ilias_jax.errors import UserError
from ilias_jax.mesh import make_mesh
from ilias_jax.rerank import pairs
from ilias_jax.rerank.local import Combination
from ilias_jax.rerank.pairs import PairScorer

DIRECTIONS = ("chamfer", "chamfer_database", "chamfer_symmetric")


def _values(counts, dim=40, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(count, dim)).astype(np.float32) for count in counts]


QUERIES, IMAGES = _values((6, 4, 1), seed=1), _values((5, 7, 1, 3), seed=2)


def _expected(method, queries, images):
    both = np.array([[chamfer(query, image) for image in images] for query in queries])
    return {"chamfer": both[..., 0], "chamfer_database": both[..., 1]}.get(method, both.mean(2))


@pytest.mark.parametrize("name", DIRECTIONS)
def test_chamfer_is_the_mean_of_the_nearest(name):
    method = world.create(name)
    sides = (world.stored(method, QUERIES, 6), world.stored(method, IMAGES, 9))
    found, expected = world.score_all(method, *sides), _expected(name, QUERIES, IMAGES)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_chamfer_of_fewer_digits_is_nearly_the_same():
    method = world.create("chamfer", dtype="bfloat16")
    queries, images = (world.stored(method, side, 9) for side in (QUERIES, IMAGES))
    found = world.score_all(method, queries, world.as_float16(images))
    expected = _expected("chamfer", QUERIES, IMAGES)
    assert 1e-5 < np.abs(found - expected).max() < 1e-2


@pytest.mark.parametrize(
    ("name", "dtype"), [("chamfer", "bfloat16"), ("chamfer_symmetric", "float32")]
)
def test_chamfer_of_bits_is_exact(name, dtype, tmp_path):
    weight = np.random.default_rng(3).normal(size=(40, 16)).astype(np.float32)
    method = world.create(name, world.write(tmp_path, {"W": weight}), dtype=dtype)
    assert method.storage == "bits" and method.input_dim == 40
    found = world.score_all(
        method, world.stored(method, QUERIES, 6), world.stored(method, IMAGES, 9)
    )
    signs = [[np.sign(each @ weight) for each in side] for side in (QUERIES, IMAGES)]
    np.testing.assert_allclose(found, _expected(name, *signs), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["chamfer_symmetric"])
def test_an_image_without_descriptors_is_least_similar(name):
    method = world.create(name)
    images = world.descriptors([np.ones((0, 8), np.float32), -np.eye(8, dtype=np.float32)], 8)
    query = world.descriptors([np.eye(8, dtype=np.float32)[:2]], 8)
    found = world.score_all(method, query, images)
    assert found[0, 0] == -1 < found[0, 1]


def test_no_binarisation_is_refused(tmp_path):
    path = world.write(tmp_path, {"V": np.ones((4, 8), np.float32)})
    with pytest.raises(UserError, match="holds no binarisation, a matrix remap_local.0.W or W"):
        world.create("chamfer", path)


def test_the_final_score_mixes_as_published():
    similarities, scores = np.float32([[0.9, 0.8]]), np.float32([[-2.0, 1e4]])
    alone = Combination()(similarities, scores)
    np.testing.assert_array_equal(alone, scores)
    mixed = Combination(0.35, 0.1)(similarities, scores)
    expected = 0.35 * similarities + 0.65 / (1 + np.exp(-0.1 * scores.astype(np.float64)))
    np.testing.assert_allclose(mixed, expected, rtol=1e-6)
    np.testing.assert_allclose(
        Combination(0.5)(similarities, scores), (similarities + scores) / 2, rtol=1e-6
    )


@pytest.mark.parametrize(
    ("network", "own", "given"),
    [(0, (0.5, 0.2), (0.5, 0.7)), (1, (0.35, 0.1), (0.35, 0.7)), (2, (None, 0.5), (None, 0.7))],
)
def test_the_configuration_counts_more_than_what_was_published(network, own, given, tmp_path):
    for options, expected in (({}, own), ({"temperature": 0.7}, given)):
        method = world.of_network(NETWORKS[network], tmp_path, SMALL, **options)
        facts = method.facts()
        assert (facts["similarity_weight"], facts["temperature"]) == expected


class Sums:
    """A query's sum, and ten times an image's, of what is no padding; padding is NaN."""

    def prepare(self, parameters, values, count):
        return self._sum(values, count)

    def compare(self, parameters, query, values, counts):
        return query + parameters * jax.vmap(self._sum)(values, counts)

    def _sum(self, values, count):
        real = jax.numpy.arange(len(values)) < count
        return jax.numpy.where(real, values[:, 0], 0.0).sum()


def _assert_sums(devices, num_images):
    rng = np.random.default_rng(0)
    counts = [rng.integers(0, 131, size) for size in (2, num_images)]
    sides = [_values(each, 1, seed) for seed, each in enumerate(counts)]
    queries, images = (world.descriptors(each, 130) for each in sides)
    for side in (queries, images):
        side.values[~side.mask] = np.nan
    indices = np.stack([rng.permutation(num_images) for _ in range(2)])
    scorer = PairScorer(Sums(), np.float32(10), make_mesh(devices=devices))
    found = scorer.score(queries, images, indices)
    sums = [np.array([value.sum() for value in side]) for side in sides]
    expected = sums[0][:, None] + 10 * sums[1][indices]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("num_images", [1, 9, 2 * pairs.PAIRS + 300])
def test_every_pair_gets_its_score(num_images):
    _assert_sums(jax.local_devices()[:2], num_images)


def test_a_microbatch_divides_a_block():
    for counts in ((1, 1), (50, 50), (100, 100), (600, 600), (10**4, 10**4)):
        assert pairs.PAIRS % pairs.microbatch(*counts) == 0


@pytest.mark.eight_devices
def test_eight_devices_score_every_pair():
    _assert_sums(jax.local_devices(), 1100)


@pytest.mark.eight_devices
@pytest.mark.parametrize("network", [NETWORKS[0], NETWORKS[3]], ids=lambda each: each.name)
def test_eight_devices_and_one_score_alike(network, tmp_path):
    found = [
        world.score_pairs(
            world.of_network(network, tmp_path, SMALL, devices=jax.local_devices()[:count]), SMALL
        )
        for count in (1, 8)
    ]
    np.testing.assert_allclose(found[0], found[1], rtol=0, atol=1e-5)
    np.testing.assert_array_equal(np.argsort(-found[0]), np.argsort(-found[1]))
