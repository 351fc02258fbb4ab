"""The final order, and that the official evaluator sees the same one."""

import json

import numpy as np
import pytest
from etils import epath
from metrics_oracle import oracle_report, random_ranking, random_world

from ilias_jax.errors import UserError
from ilias_jax.metrics import evaluate
from ilias_jax.metrics.scores import score_lists
from ilias_jax.official.export import write_ranking
from ilias_jax.official.similarities import read_similarities
from ilias_jax.rerank.order import check_shortlist, reorder
from ilias_jax.search.ranking import Ranking

LARGEST = float(np.finfo(np.float32).max)
SMALLEST = float(np.float32(1e-45))
KINDS = {
    "cosines": lambda rng, shape: rng.uniform(-1, 1, shape),
    "ties": lambda rng, shape: rng.integers(0, 3, shape) / 2,
    "all equal": lambda rng, shape: np.full(shape, 0.25),
    "huge": lambda rng, shape: rng.uniform(-1e30, 1e30, shape),
    "negative": lambda rng, shape: -rng.random(shape) - 5,
    "lowest": lambda rng, shape: np.full(shape, -LARGEST),
    "extremes": lambda rng, shape: rng.choice([-LARGEST, LARGEST], shape),
    "around zero": lambda rng, shape: rng.choice([-SMALLEST, -0.0, 0.0, SMALLEST], shape),
    "wide": lambda rng, shape: rng.choice([-1, 1], shape) * 10.0 ** rng.uniform(-44, 38, shape),
}


def _draw(rng: np.random.Generator, kind: str, shape: tuple[int, int]) -> np.ndarray:
    return KINDS[kind](rng, shape).astype(np.float32)


def _ranking(rng: np.random.Generator, kind: str, shape: tuple[int, int]) -> Ranking:
    indices = np.argsort(rng.random((shape[0], 2 * shape[1])), axis=1)[:, : shape[1]]
    scores = -np.sort(-_draw(rng, kind, shape), axis=1)
    return Ranking(tuple(f"q{row}" for row in range(shape[0])), indices.astype(np.int32), scores)


def _one_by_one(scores: list[float]) -> list[float]:
    """Strictly falling scores by float32's own neighbours, where none is at the lower end."""
    fallen = [np.float32(scores[0])]
    for score in scores[1:]:
        below = np.nextafter(fallen[-1], np.float32(-np.inf))
        fallen.append(min(np.float32(score), below))
    return fallen


@pytest.mark.parametrize("new", KINDS)
@pytest.mark.parametrize("old", KINDS)
def test_whoever_sorts_by_the_scores_gets_the_order(old, new):
    rng = np.random.default_rng([len(old), len(new)])
    for length in (1, 7, 19, 20):
        ranking, scores = _ranking(rng, old, (5, 20)), _draw(rng, new, (5, length))
        found = reorder(ranking, scores)
        assert found.scores.dtype == np.float32 and np.isfinite(found.scores).all()
        assert (found.scores[:, 1:] < found.scores[:, :-1]).all()
        for query in range(5):
            before = ranking.indices[query].tolist()
            pairs = zip(scores[query].tolist(), before[:length], strict=True)
            expected = [index for _, index in sorted(pairs, key=lambda pair: -pair[0])]
            assert found.indices[query].tolist() == expected + before[length:]
            own = -np.sort(-scores[query])
            if new not in ("lowest", "extremes"):
                assert found.scores[query, :length].tolist() == _one_by_one(own)


def test_distinct_scores_stay_and_the_tail_keeps_its_distances():
    rng = np.random.default_rng(0)
    ranking, scores = _ranking(rng, "cosines", (5, 20)), _draw(rng, "cosines", (5, 8))
    found = reorder(ranking, scores)
    np.testing.assert_array_equal(found.scores[:, :8], -np.sort(-scores, axis=1))
    tail = found.scores[:, 8:] - found.scores[:, 8:9]
    np.testing.assert_allclose(tail, ranking.scores[:, 8:] - ranking.scores[:, 8:9], atol=1e-6)
    np.testing.assert_allclose(found.scores[:, 8], found.scores[:, 7] - 1, atol=1e-6)


def test_scores_are_sorted_before_they_are_rounded():
    """Two that are one float32, in float64."""
    ranking = Ranking(("q",), np.arange(3, dtype=np.int32)[None], np.zeros((1, 3), np.float32))
    found = reorder(ranking, np.array([[0.5, 0.5 + 1e-12, 0.5 + 2e-12]]))
    assert found.indices.tolist() == [[2, 1, 0]]
    assert (found.scores[:, 1:] < found.scores[:, :-1]).all() and found.scores[0, 0] == 0.5


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_scores_that_are_none_are_no_order(value):
    ranking = Ranking(("q",), np.arange(3, dtype=np.int32)[None], np.zeros((1, 3), np.float32))
    with pytest.raises(ValueError, match="NaN or infinite"):
        reorder(ranking, np.array([[0.5, value]], np.float32))


@pytest.mark.parametrize("shortlist", [0, 8, 1000])
def test_a_shortlist_is_no_longer_than_the_lists(shortlist):
    check_shortlist(1, 7)
    check_shortlist(7, 7)
    with pytest.raises(UserError, match=f"rerank.shortlist={shortlist} .* lists of 7 .* 1 to 7"):
        check_shortlist(shortlist, 7)


@pytest.mark.parametrize("suffix", ["json", "pkl"])
@pytest.mark.parametrize("length", [10, 100, 1000])
def test_the_official_evaluator_gives_our_number(tmp_path, length, suffix):
    """Ties before and after; the file read back: our scorer, the file's, and scikit-learn's."""
    rng = np.random.default_rng(length)
    truth = random_world(rng, 6, 8, 60)
    names = [*truth.positive_ids, *(f"a.tar/{n:04d}" for n in range(1500))]
    ranking = random_ranking(rng, truth.image_query_ids, len(names), 1000, levels=40)
    found = reorder(ranking, rng.integers(0, 20, (8, length)).astype(np.float32))
    path = epath.Path(tmp_path / f"similarities.{suffix}")
    write_ranking(path, found, lambda rows: [names[row] for row in rows])
    lists = read_similarities([path])
    ours = evaluate(found, truth, 1000, len(names), num_resamples=40)
    read = score_lists(lists, truth, 1000, num_resamples=40)
    expected = oracle_report(found, truth, 1000)
    assert read.num_ambiguous == 0
    assert ours.map == read.metrics.map == pytest.approx(expected["map"], abs=1e-12)
    np.testing.assert_allclose(ours.aps, expected["aps"], atol=1e-10)
    for section in ("scale", "clutter", "categories", "subcategories"):
        found_groups = getattr(ours, section)
        assert found_groups == getattr(read.metrics, section)
        assert sorted(found_groups.values()) == pytest.approx(
            sorted(expected[section].values()), abs=1e-10
        )


def test_a_file_of_the_first_entries_alone_would_lose_the_tail(tmp_path):
    """Why the tail is written: what only re-ranked pairs score."""
    rng = np.random.default_rng(3)
    truth = random_world(rng, 6, 8, 60)
    names = [*truth.positive_ids, *(f"a.tar/{n:04d}" for n in range(100))]
    ranking = random_ranking(rng, truth.image_query_ids, len(names), 150, levels=40)
    found = reorder(ranking, rng.random((8, 10)).astype(np.float32))
    path = epath.Path(tmp_path / "similarities.json")
    write_ranking(path, found, lambda rows: [names[row] for row in rows])
    whole = score_lists(read_similarities([path]), truth, 1000, num_resamples=40).metrics
    lists = {
        query: dict([*row.items()][:10]) for query, row in json.loads(path.read_text()).items()
    }
    path.write_text(json.dumps(lists))
    cut = score_lists(read_similarities([path]), truth, 1000, num_resamples=40).metrics
    assert cut.oracle < whole.oracle and cut.map < whole.map
