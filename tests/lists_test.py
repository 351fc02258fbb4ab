"""The host metric against scikit-learn query by query, and against the metric on the device."""

import types

import numpy as np
import pytest
from list_builder import lists_of
from metrics_oracle import oracle_report, random_ranking, random_world

from ilias_jax.ground_truth import GroundTruth
from ilias_jax.metrics import evaluate
from ilias_jax.metrics.lists import ListScores, score_lists
from ilias_jax.ranking import Ranking
from ilias_jax.similarity_lists import SimilarityLists

GROUPINGS = ("scale", "clutter", "categories", "subcategories")


def named(truth: GroundTruth, index: int) -> str:
    positives = truth.positive_ids
    return positives[index] if index < len(positives) else f"0.tar/{index}"


def as_lists(ranking: Ranking, truth: GroundTruth, rng: np.random.Generator) -> SimilarityLists:
    """The lists of a ranking; equal scores keep their order, else entries are mixed."""
    queries = []
    for query, row, scores in zip(ranking.query_ids, ranking.indices, ranking.scores, strict=True):
        pairs = [(named(truth, i), float(s)) for i, s in zip(row, scores, strict=True)]
        place = {score: rng.random() for _, score in pairs}
        queries.append((query, sorted(pairs, key=lambda pair: place[pair[1]])))
    return lists_of(*queries)


def random_truth(rng: np.random.Generator, kind: str = "image") -> GroundTruth:
    return random_world(rng, 7, 11, int(rng.integers(7, 60)), kind)


@pytest.mark.parametrize("seed", range(12))
def test_equals_scikit_learn_query_by_query(seed: int) -> None:
    """Ragged lists, float64 scores, many ties, k below and above the lengths."""
    rng = np.random.default_rng(seed)
    truth = random_truth(rng, ("image", "text")[seed % 2])
    queries = truth.image_query_ids + truth.text_query_ids
    num_database = len(truth.positive_ids) + 30
    rows, scores = [], []
    for _ in queries:
        length = int(rng.integers(0, num_database + 1))
        rows.append(rng.permutation(num_database)[:length])
        levels = int(rng.choice([1, 3, 20, 10**9]))
        values = rng.integers(0, levels, length) / levels
        # Differences that float32 does not know.
        scores.append(-np.sort(-(1 + values * 1e-9)) if seed % 3 else -np.sort(-values))
    k = int(rng.choice([1, 5, 20, 1000]))
    lists = lists_of(
        *(
            (query, [(named(truth, i), s) for i, s in zip(row, values, strict=True)])
            for query, row, values in zip(queries, rows, scores, strict=True)
        )
    )
    fake = types.SimpleNamespace(query_ids=queries, indices=rows, scores=scores)
    wanted = oracle_report(fake, truth, k)  # type: ignore[arg-type]
    found = score_lists(lists, truth, k, num_resamples=40)
    np.testing.assert_allclose(found.metrics.aps, wanted["aps"], atol=1e-11)
    for key in ("map", "oracle", *GROUPINGS):
        assert getattr(found.metrics, key) == pytest.approx(wanted[key], abs=1e-11)
    assert found.shortest == min(map(len, rows))


@pytest.mark.parametrize(("levels", "k"), [(3, 4), (10_000, 25)])
def test_equals_the_metric_on_the_device_with_its_intervals(levels: int, k: int) -> None:
    rng = np.random.default_rng(levels + k)
    truth = random_truth(rng)
    num_database = len(truth.positive_ids) + 20
    ranking = random_ranking(rng, truth.image_query_ids, num_database, 25, levels)
    wanted = evaluate(ranking, truth, k, num_database, num_resamples=500, seed=3)
    lists = as_lists(ranking, truth, rng)
    found = score_lists(lists, truth, k, num_resamples=500, seed=3).metrics
    np.testing.assert_allclose(found.aps, wanted.aps, atol=1e-11)
    for key in ("map", "ci95", "oracle", *GROUPINGS):
        assert getattr(found, key) == pytest.approx(getattr(wanted, key), abs=1e-10)
    assert found.counts == wanted.counts
    for section in wanted.intervals:
        assert set(found.intervals[section]) == set(wanted.intervals[section])
        for group, interval in wanted.intervals[section].items():
            assert found.intervals[section][group] == pytest.approx(interval, abs=1e-10)


def one_query(num_positives: int) -> GroundTruth:
    return GroundTruth(
        image_query_ids=("a/q",),
        text_query_ids=(),
        positive_ids=tuple(f"a/pos/{n}" for n in range(num_positives)),
        scale=np.linspace(0.0, 0.1, num_positives),  # two groups
        clutter=np.zeros(num_positives, np.int32),
        taxonomy={"a": ("art", "vase", "red")},
    )


def score(pairs: str, truth: GroundTruth, k: int) -> ListScores:
    """Scores "p0=3 x=2 ...": p are positives, other letters distractors."""
    entries = [pair.split("=") for pair in pairs.split()]
    named = [(n.replace("p", "a/pos/"), float(value)) for n, value in entries]
    return score_lists(lists_of(("a/q", named)), truth, k, num_resamples=40)


def test_small_cases_by_hand() -> None:
    truth = one_query(4)
    found = score("x=5 p0=4 y=3 p1=2 z=1", truth, 5)
    assert found.metrics.map == pytest.approx(100 / 4 * (1 / 2 + 2 / 4))
    assert found.official_oracle == found.metrics.oracle == 50
    # A tie counts as a whole: both its positives are seen at its end.
    assert score("p0=2 x=2 p1=2 y=1", truth, 9).metrics.map == pytest.approx(100 / 4 * (2 * 2 / 3))
    # k below the number of positives.
    assert score("p0=3 p1=2 p2=1 x=0", truth, 2).metrics.map == 100
    # p3 is of the second scale group; it leaves the list before the cut, so p0 moves up to rank 2.
    scale = score("p3=9 x=8 p0=7", truth, 2).metrics.scale
    assert list(scale.values()) == [100 / 2 * (1 / 2), 100]


def test_the_official_oracle_of_a_short_list_is_too_high() -> None:
    found = score("p0=2 x=1", one_query(4), 1000)
    assert found.official_oracle == pytest.approx(100 * 0.5 * 1000 / 4)
    assert found.metrics.oracle == 25 and found.shortest == 2
    assert score("", one_query(4), 1000).official_oracle == 0


@pytest.mark.parametrize(
    ("pairs", "ambiguous"),
    [
        ("p0=3 x=2 y=1", 0),
        ("x=3 p0=2 y=2", 1),  # cut at 2 through a tie with a positive in it
        ("x=3 y=2 p0=2", 1),
        ("x=3 y=2 z=2 p0=1", 0),  # no positive in the tie
        ("x=3 p0=2 p1=2", 0),  # nothing else in it: any order finds one positive
        ("p0=2 x=2 y=1", 0),  # the tie ends at the cut
        ("p0=9 x=5 p3=3 y=3", 1),  # in a group alone: without p0, y and p3 straddle
        ("p0=9 x=5 y=3 z=3 p0=1", 0),
    ],
)
def test_ties_across_the_cut_are_counted(pairs: str, ambiguous: int) -> None:
    assert score(pairs, one_query(4), 2).num_ambiguous == ambiguous


def test_minus_zero_equals_zero() -> None:
    assert score("x=0 p0=-0.0 y=-1", one_query(1), 9).metrics.map == 50


def test_arguments_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="k = 0; expected k >= 1"):
        score("p0=1", one_query(1), 0)
