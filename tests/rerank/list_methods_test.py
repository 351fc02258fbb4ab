"""Methods that re-rank lists of vectors, beside their authors' code, which a script has run."""

import jax
import numpy as np
import pytest
from list_cases import CASES, FILE, Case, Lists, draw

from ilias_jax.config import RerankConfig
from ilias_jax.errors import UserError
from ilias_jax.mesh import make_mesh
from ilias_jax.rerank import diffusion, k_reciprocal
from ilias_jax.rerank.diffusion import Diffusion
from ilias_jax.rerank.k_reciprocal import KReciprocal
from ilias_jax.rerank.lists import ListReranker
from ilias_jax.rerank.reranker import RERANKERS
from ilias_jax.rerank.superglobal import SuperGlobal


def _scores(
    method: type[ListReranker], lists: Lists, num_devices: int = 1, weight: float = -1
) -> np.ndarray:
    mesh = make_mesh(devices=jax.devices()[:num_devices])
    reranker = method.create(RerankConfig(similarity_weight=weight), mesh)
    arrays = lists.queries, lists.images, lists.indices, lists.similarities
    return reranker.combine(lists.similarities, reranker.score(*arrays))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("method", [SuperGlobal, KReciprocal])
def test_scores_and_order_are_the_authors(method, case):
    name = {SuperGlobal: "superglobal", KReciprocal: "k_reciprocal"}[method]
    expected = np.load(FILE)[f"{case.name}_{name}"]
    found = _scores(method, draw(case))
    np.testing.assert_allclose(found, expected, atol=2e-6)
    np.testing.assert_array_equal(np.argsort(-found, axis=1), np.argsort(-expected, axis=1))


def _dense(query: np.ndarray, images: np.ndarray, neighbours: int) -> np.ndarray:
    """The paper's equation, in float64 and with loops."""
    weights = np.maximum(images @ images.T, 0) ** 3
    np.fill_diagonal(weights, 0)
    near = np.argsort(-weights, axis=1)[:, :neighbours]
    for i in range(len(images)):
        for j in range(len(images)):
            if j not in near[i] or i not in near[j]:
                weights[i, j] = 0
    weights = np.minimum(weights, weights.T)
    sums = weights.sum(axis=1)
    shares = np.divide(1, np.sqrt(sums), out=np.zeros(len(sums)), where=sums > 0)
    start = np.maximum(images @ query, 0) ** 3
    start[np.argsort(-start)[10:]] = 0
    return np.linalg.solve(np.eye(len(images)) - 0.99 * shares[:, None] * weights * shares, start)


@pytest.mark.parametrize("neighbours", [7, 50])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_diffusion_is_the_dense_solution(case, neighbours, monkeypatch):
    monkeypatch.setattr(diffusion, "NEIGHBOURS", neighbours)
    lists = draw(case)
    found = _scores(Diffusion, lists)
    for query, row, scores in zip(lists.queries, lists.indices, found, strict=True):
        images = lists.images[row].astype(np.float64)
        expected = _dense(query.astype(np.float64), images, neighbours)
        np.testing.assert_allclose(scores, expected, atol=1e-4 * expected.max())
        clear = np.flatnonzero(np.diff(np.sort(expected)) < 1e-4 * expected.max()).size == 0
        if clear:
            np.testing.assert_array_equal(np.argsort(-scores), np.argsort(-expected))


def _lists(query: np.ndarray, images: np.ndarray) -> Lists:
    """One list of all images, in this order, which need not be that of a search."""
    count = len(images)
    arrays = query[None].astype(np.float32), images.astype(np.float32)
    return Lists(*arrays, np.arange(count)[None], np.zeros((1, count), np.float32))


def _refined(query: np.ndarray, images: np.ndarray) -> np.ndarray:
    """SuperGlobal's scores in float64; every image is its own first neighbour."""
    products = images @ images.T
    refined = np.zeros_like(images)
    for i, row in enumerate(products):
        others = [j for j in np.argsort(-row, kind="stable") if j != i][:9]
        weights = 0.15 * row[others]
        refined[i] = (images[i] + weights @ images[others]) / (1 + weights.sum())
    first = refined @ query
    best = np.argsort(-first, kind="stable")[:10]
    return (first + refined @ refined[best].max(axis=0)) / 2


def test_an_image_is_itself_beside_longer_copies():
    """Of each image a near copy stands before it, a little longer than it, as float16 may round."""
    lists = draw(CASES[0])
    noise = np.random.default_rng(0).standard_normal((30, lists.images.shape[1]))
    images = lists.images[:30].astype(np.float64)
    images = np.concatenate([1.001 * images + 1e-3 * noise, images])
    (found,) = _scores(SuperGlobal, _lists(lists.queries[0], images))
    expected = _refined(lists.queries[0].astype(np.float64), images)
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("others", [0, 40])
@pytest.mark.parametrize("method", [SuperGlobal, KReciprocal, Diffusion])
def test_more_copies_than_neighbours(method, others):
    """Copies of the query, as many as no neighbourhood holds, come before all others."""
    others = draw(Case("", 40, None)).images[:others]
    query = np.eye(others.shape[1])[0]  # whose copies are at a distance of exactly 0
    (found,) = _scores(method, _lists(query, np.concatenate([np.tile(query, (60, 1)), others])))
    assert np.isfinite(found).all()
    assert not len(others) or found[:60].min() > found[60:].max()
    (alone,) = _scores(method, _lists(query, query[None]))
    assert np.isfinite(alone).all()


def test_copies_without_neighbours_are_encoded_as_nothing():
    """Point 40 is too late among 60 copies to be its own neighbour, and is nearest to point 60."""
    distances = np.ones((61, 61), np.float32)
    distances[:60, :60], distances[60, 60], distances[60, 40] = 0, 0, 0.5
    found = np.asarray(k_reciprocal._encodings(distances))
    sums = np.full(61, 1.0)
    sums[60] = 5 / 6  # of its own encoding, nothing, and those of four of the first copies
    np.testing.assert_allclose(found.sum(axis=1), sums, rtol=1e-6)
    np.testing.assert_array_equal(found[1:60], np.tile(found[:1], (59, 1)))


def test_what_the_walk_does_not_reach_scores_nothing():
    """Two sets of images without an edge between them; the query is near to one."""
    points = np.abs(np.random.default_rng(0).standard_normal((2, 20, 6)))
    images = np.zeros((40, 12))
    images[:20, :6], images[20:, 6:] = points
    images /= np.linalg.norm(images, axis=1, keepdims=True)
    (found,) = _scores(Diffusion, _lists(images[25], images))
    assert (found[:20] == 0).all() and (found[20:] > 0).all()


@pytest.mark.parametrize(
    "option", [{"weights": "a.pt"}, {"temperature": 1.0}, {"crop_queries": True}]
)
def test_options_of_local_descriptors_are_refused(option):
    (name,) = option
    with pytest.raises(UserError, match=rf"rerank.{name}=.* does nothing for .*'superglobal'"):
        SuperGlobal.create(RerankConfig(method="superglobal", **option), make_mesh())


@pytest.mark.parametrize("method", [SuperGlobal, KReciprocal, Diffusion])
def test_short_lists_and_devices(method):
    """Lists shorter than all neighbourhoods, of three queries on two devices."""
    lists = draw(Case("", 4, None))
    one, two = _scores(method, lists), _scores(method, lists, num_devices=2)
    assert one.shape == (3, 4) and np.isfinite(one).all()
    np.testing.assert_array_equal(one, two)
    mixed = _scores(method, lists, weight=0.25)
    np.testing.assert_allclose(mixed, 0.25 * lists.similarities + 0.75 * one, rtol=1e-6)


def test_methods_have_their_names():
    names = {"superglobal": SuperGlobal, "k_reciprocal": KReciprocal, "diffusion": Diffusion}
    assert {name: RERANKERS[name] for name in names} == names
