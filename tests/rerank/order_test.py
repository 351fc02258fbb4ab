"""The final order, and that the official evaluator sees the same one."""

import numpy as np
import pytest
from etils import epath
from metrics_oracle import oracle_report, random_ranking, random_world

from ilias_jax.metrics import evaluate
from ilias_jax.metrics.scores import score_lists
from ilias_jax.official.export import write_ranking
from ilias_jax.official.similarities import read_similarities
from ilias_jax.rerank.order import reorder
from ilias_jax.search.ranking import Ranking


def _ranking(scores: np.ndarray) -> Ranking:
    rng = np.random.default_rng(len(scores))
    indices = np.argsort(rng.random((*scores.shape[:1], 2 * scores.shape[1])), axis=1)
    names = tuple(f"q{row}" for row in range(len(scores)))
    return Ranking(names, indices[:, : scores.shape[1]].astype(np.int32), scores)


def _falling(rng: np.random.Generator, kind: str, shape: tuple[int, int]) -> np.ndarray:
    scores = {
        "cosines": lambda: rng.uniform(-1, 1, shape),
        "ties": lambda: rng.integers(0, 3, shape) / 2,
        "all equal": lambda: np.full(shape, 0.25),
        "huge": lambda: rng.uniform(-1e30, 1e30, shape),
        "negative": lambda: -rng.random(shape) - 5,
    }[kind]()
    return -np.sort(-scores.astype(np.float32), axis=1)


@pytest.mark.parametrize("length", [1, 7, 20])
@pytest.mark.parametrize("new", ["cosines", "ties", "huge", "negative", "all equal"])
@pytest.mark.parametrize("old", ["cosines", "ties", "huge", "negative", "all equal"])
def test_whoever_sorts_by_the_scores_gets_the_order(old, new, length):
    rng = np.random.default_rng(3)
    ranking = _ranking(_falling(rng, old, (5, 20)))
    scores = rng.permuted(_falling(rng, new, (5, length)), axis=1)
    found = reorder(ranking, scores)
    assert np.isfinite(found.scores).all() and (np.diff(found.scores, axis=1) < 0).all()
    for query in range(5):
        before = ranking.indices[query].tolist()
        pairs = zip(scores[query].tolist(), before[:length], strict=True)
        expected = [index for _, index in sorted(pairs, key=lambda pair: -pair[0])]
        assert found.indices[query].tolist() == expected + before[length:]
    if new == "cosines":  # distinct ones stay as they are
        np.testing.assert_array_equal(found.scores[:, :length], -np.sort(-scores, axis=1))


@pytest.mark.parametrize("length", [10, 100, 1000])
def test_the_official_evaluator_gives_our_number(tmp_path, length):
    """A ranking with ties, its exported file read back: our scorer, the file's, and scikit-learn's."""
    rng = np.random.default_rng(length)
    truth = random_world(rng, 6, 8, 60)
    names = [*truth.positive_ids, *(f"a.tar/{n:04d}" for n in range(1500))]
    ranking = random_ranking(rng, truth.image_query_ids, len(names), 1000, levels=40)
    found = reorder(ranking, rng.integers(0, 20, (8, length)).astype(np.float32))
    path = epath.Path(tmp_path / "similarities.json")
    write_ranking(path, found, lambda rows: [names[row] for row in rows])
    lists = read_similarities([path])
    ours = evaluate(found, truth, 1000, len(names), num_resamples=40)
    read = score_lists(lists, truth, 1000, num_resamples=40).metrics
    expected = oracle_report(found, truth, 1000)
    assert ours.map == read.map == pytest.approx(expected["map"], abs=1e-12)
    np.testing.assert_allclose(ours.aps, expected["aps"], atol=1e-10)
