"""Spatial verification beside its definition in float64, planted maps, and cases without any."""

from collections.abc import Iterable

import jax
import numpy as np
import pytest

from ilias_jax.config import RerankConfig
from ilias_jax.errors import UserError
from ilias_jax.mesh import make_mesh
from ilias_jax.rerank.descriptors import Descriptors
from ilias_jax.rerank.ransac import Matches, count_inliers, draws, samples
from ilias_jax.rerank.reranker import RERANKERS
from ilias_jax.rerank.spatial import SEED, Spatial

PIXEL = 1 / 770
RESIDUAL = 10 * PIXEL
PADDED = 80


def _places(seed: int, count: int, share: float, noise: float) -> tuple[np.ndarray, np.ndarray]:
    """Places [count, 2] twice; an affine map, and noise, takes that share of the ones to the other."""
    rng = np.random.default_rng(seed)
    angle, stretch = rng.uniform(-np.pi, np.pi), rng.uniform(0.5, 1.5, 2)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    sources, targets = rng.random((2, count, 2))
    chosen = rng.permutation(count)[: round(share * count)]
    mapped = (sources[chosen] - 0.5) * stretch @ turn.T + rng.uniform(0.4, 0.6, 2)
    targets[chosen] = mapped + rng.normal(0, noise, mapped.shape)
    return sources, targets


def _matches(sources: np.ndarray, targets: np.ndarray, seed: int = 0) -> Matches:
    """The matches among others that are no real ones."""
    rng = np.random.default_rng(seed)
    at = np.sort(rng.permutation(PADDED)[: len(sources)])
    padded = rng.random((2, PADDED, 2)).astype(np.float32)
    padded[0, at], padded[1, at] = sources, targets
    return Matches(*padded, np.isin(np.arange(PADDED), at))


@jax.jit
def _count_all(matches: Matches) -> jax.Array:
    residual = np.float32(RESIDUAL)
    return jax.lax.map(lambda one: count_inliers(one, draws(SEED), residual), matches)


def _counts(cases: list[Matches]) -> np.ndarray:
    """Inliers of each, padded to a hundred cases so that one program serves all tests."""
    padded = cases + cases[:1] * (100 - len(cases))
    stacked = Matches(*map(np.stack, zip(*padded, strict=True)))
    return np.asarray(_count_all(stacked))[: len(cases)]


def _drawn(row: np.ndarray, matches: Iterable[int]) -> list[int]:
    """The matches of a hypothesis, taken from a pool one by one."""
    pool = list(matches)
    return [pool.pop(int(number * np.float32(len(pool)))) for number in row]


def _is_line(points: np.ndarray) -> bool:
    edges = points[1:] - points[0]
    return abs(np.linalg.det(edges)) <= 1e-3 * np.square(edges).sum()


def _explained(sources: np.ndarray, targets: np.ndarray, through: np.ndarray) -> np.ndarray:
    """Which matches the map of least squares through some of them explains, float64."""
    ones = np.concatenate([sources, np.ones((len(sources), 1))], axis=1)
    solved = np.linalg.lstsq(ones[through], targets[through], rcond=None)[0]
    return np.linalg.norm(ones @ solved - targets, axis=1) < RESIDUAL


def _by_definition(sources: np.ndarray, targets: np.ndarray) -> tuple[int, int]:
    """Inliers of the best hypothesis, and of the map that is fitted to those."""
    best = np.zeros(len(sources), bool)
    for row in np.asarray(draws(SEED)):
        drawn = _drawn(row, range(len(sources)))
        if not _is_line(sources[drawn]) and not _is_line(targets[drawn]):
            found = _explained(sources, targets, drawn)
            best = found if found.sum() > best.sum() else best
    again = _explained(sources, targets, np.flatnonzero(best))
    return best.sum(), again.sum()


@pytest.mark.parametrize("count", [3, 4, 50, PADDED])
def test_hypotheses_go_through_three_different_matches(count):
    real = _matches(*_places(0, count, 0.0, 0.0)).real
    found = np.asarray(samples(real, np.int32(count), draws(SEED)))
    expected = [_drawn(row, np.flatnonzero(real)) for row in np.asarray(draws(SEED))]
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(np.unique(found), np.flatnonzero(real))


def test_planted_maps_are_found():
    """Three of ten matches belong to the map, and are off by 1 px in each direction."""
    planted = [_matches(*_places(seed, 60, 0.3, PIXEL), seed) for seed in range(100)]
    none = [_matches(*_places(seed, 60, 0.0, 0.0), seed) for seed in range(100)]
    assert (_counts(planted) >= 18).sum() >= 99
    assert _counts(none).max() < 12


@pytest.mark.parametrize("noise", [0.0, 6 * PIXEL])
def test_inliers_are_those_of_the_definition(noise):
    cases = [_places(seed, 20 + 8 * seed, 0.8, noise) for seed in range(8)]
    found = _counts([_matches(*case) for case in cases])
    expected = np.array([_by_definition(*case) for case in cases])
    np.testing.assert_array_equal(found, expected.max(axis=1))
    assert noise == 0 or (np.diff(expected) > 0).any() and (np.diff(expected) < 0).any()


def test_what_no_map_explains_counts_nothing():
    rng = np.random.default_rng(0)
    free, line = rng.random((2, 20, 2))
    line[:, 1] = 0.3 + line[:, 0] / 2
    point = np.full((20, 2), 0.25)
    cases = [(free, line), (line, free), (line, line), (free, point), (point, free), (point, point)]
    np.testing.assert_array_equal(_counts([_matches(*case) for case in cases]), 0)


@pytest.mark.parametrize(("count", "expected"), [(0, 0), (1, 0), (2, 0), (3, 0), (4, 4), (80, 80)])
def test_more_than_three_matches_are_needed(count, expected):
    sources, targets = _places(1, count, 1.0, 0.0)
    assert _counts([_matches(sources, targets)])[0] == expected


def test_other_matches_and_padding_change_nothing():
    """The same matches at other places of the padding."""
    places = _places(3, 30, 0.4, 4 * PIXEL)
    assert len(set(_counts([_matches(*places, seed) for seed in range(20)]))) == 1


def _near(distance: float, number: int = 10) -> np.ndarray:
    """[number, 16] unit vectors so far from the first basis vectors."""
    cosine = 1 - distance**2 / 2
    return cosine * np.eye(16)[:number] + np.sqrt(1 - cosine**2) * np.eye(16)[15]


def _descriptors(values: list[np.ndarray], places: list[np.ndarray], dtype: type) -> Descriptors:
    """Of images, padded to 24 with descriptors that would match."""
    counts = np.array([len(each) for each in values], np.int32)
    found, where = (
        np.tile(np.eye(16), (len(values), 2, 1))[:, :24],
        np.full((len(values), 24, 2), 0.5),
    )
    for i, count in enumerate(counts):
        found[i, :count], where[i, :count] = values[i], places[i]
    weights = np.ones((len(values), 24), np.float32)
    return Descriptors(found.astype(dtype), where.astype(np.float32), weights, counts)


def _world(dtype: type = np.float16) -> tuple[Descriptors, Descriptors]:
    """Queries of ten descriptors and of four, and images whose descriptors are near to theirs."""
    rng = np.random.default_rng(2)
    places, elsewhere, again = rng.random((3, 10, 2))
    mapped = places @ np.array([[0.5, 0.2], [-0.1, 0.6]]) + 0.1
    some = np.concatenate([mapped[:6], elsewhere[6:]])
    both = np.concatenate([_near(0.6), _near(0.3)])
    images = [
        (_near(0.0)[::-1], mapped[::-1]),
        (_near(0.0), some),
        (_near(0.89), mapped),
        (_near(0.91), mapped),
        (_near(0.0)[:0], mapped[:0]),
        (_near(0.0, 3), mapped[:3]),
        (both, np.concatenate([elsewhere, mapped])),
        (both, np.concatenate([mapped, elsewhere])),
        (np.concatenate([_near(0.0), np.eye(16)[10:15]]), np.concatenate([mapped, again[:5]])),
        (2 * _near(0.0), mapped),
    ]
    queries = _descriptors([np.eye(16)[:10], np.eye(16)[:4]], [places, places[:4]], np.float32)
    return queries, _descriptors(*map(list, zip(*images, strict=True)), dtype)


def _matched(queries: Descriptors, images: Descriptors, query: int, image: int) -> int:
    """Inliers of a pair by the definition."""
    own, other = queries.counts[query], images.counts[image]
    if not other:
        return 0
    values = queries.values[query, :own, None] - images.values[image, None, :other].astype(float)
    distances = np.linalg.norm(values, axis=-1)
    matched, nearest = distances.min(axis=1) < 0.9, distances.argmin(axis=1)
    places = images.locations[image, nearest[matched]], queries.locations[query, :own][matched]
    return max(_by_definition(*(each.astype(float) for each in places))) if matched.sum() > 3 else 0


def _method(num_devices: int = 1, **options) -> Spatial:
    mesh = make_mesh(devices=jax.devices()[:num_devices])
    return Spatial.create(RerankConfig(method="spatial", **options), mesh)


@pytest.fixture(scope="module")
def spatial() -> Spatial:
    """On one device, at the usual resolution."""
    return _method()


def _score(method: Spatial, queries: Descriptors, images: Descriptors) -> np.ndarray:
    """[queries, images] of shortlists that begin at different images."""
    indices = np.add.outer(np.arange(len(queries)), np.arange(len(images))) % len(images)
    found = method.score(queries, images, indices, np.zeros(indices.shape, np.float32))
    return np.take_along_axis(found, np.argsort(indices, axis=1), axis=1)


def test_scores_are_the_inliers_of_near_descriptors(spatial):
    queries, images = _world(np.float32)
    found = _score(spatial, queries, images)
    expected = [[_matched(queries, images, i, j) for j in range(len(images))] for i in range(2)]
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(
        found[0, [0, 1, 2, 3, 4, 5, 6, 8, 9]], [10, 6, 10, 0, 0, 0, 10, 10, 0]
    )
    np.testing.assert_array_equal(
        found[1, [0, 1, 2, 3, 4, 5, 6, 8, 9]], [4, 4, 4, 0, 0, 0, 4, 4, 0]
    )


def test_batches_and_devices_change_nothing(spatial):
    queries, images = _world()
    whole = _score(spatial, queries, images)
    np.testing.assert_array_equal(_score(_method(num_devices=2), queries, images), whole)
    alone = [_score(spatial, queries, images.take(np.array([i]))) for i in range(len(images))]
    np.testing.assert_array_equal(np.concatenate(alone, axis=1), whole)


def test_the_residual_is_in_pixels_of_the_resolution(spatial):
    """The last of ten matches is off by 15 px of 770."""
    queries, images = _world(np.float32)
    queries.locations[0, 9, 0] += 15 * PIXEL
    assert _score(spatial, queries, images)[0, 0] == 9
    assert _score(_method(resolution=385), queries, images)[0, 0] == 10
    facts = _method(resolution=500).facts()
    assert facts["residual"] == 10 / 500 and facts["hypotheses"] == 1000 and facts["seed"] == SEED


def test_inliers_count_before_similarities(spatial):
    rng = np.random.default_rng(0)
    similarities = -np.sort(-rng.uniform(-1, 1, (3, 500)).astype(np.float32), axis=1)
    similarities[:, :2], similarities[:, -2:] = 1.0, -1.0
    inliers = rng.choice([0, 1, 2, 599, 600, 4000], (3, 500)).astype(np.float32)
    final = spatial.combine(similarities, inliers)
    assert final.dtype == np.float32 and (np.floor(final) == inliers).all()
    expected = np.lexsort((-similarities, -inliers), axis=1)
    np.testing.assert_array_equal(np.argsort(-final, axis=1, kind="stable"), expected)


def test_descriptors_are_those_of_chamfer_similarity(spatial):
    chamfer = RERANKERS["chamfer"].create(RerankConfig(method="chamfer"), make_mesh())
    assert RERANKERS["spatial"] is Spatial
    values = np.random.default_rng(0).standard_normal((5, 8)).astype(np.float32)
    found = [np.asarray(each.project(each.parameters, values)) for each in (spatial, chamfer)]
    np.testing.assert_array_equal(*found)
    for name in ("projection", "storage", "takes_detector_map"):
        assert getattr(spatial, name) == getattr(chamfer, name)


@pytest.mark.parametrize(
    "option", [{"weights": "a.pt"}, {"similarity_weight": 0.5}, {"temperature": 1.0}]
)
def test_what_it_does_not_know_is_refused(option):
    (name,) = option
    with pytest.raises(UserError, match=rf"rerank.{name}=.* does nothing for .*'spatial'"):
        _method(**option)
