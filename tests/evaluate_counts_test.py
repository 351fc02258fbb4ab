"""Scores from counts equal those of the list to the bit, and scikit-learn's; what is refused."""

import dataclasses
import json

import numpy as np
import pytest
from counts_oracle import counts_of, ranking_of
from metrics_oracle import oracle_report, random_world

from ilias_jax.errors import UserError
from ilias_jax.ground_truth import GroundTruth
from ilias_jax.metrics import Metrics, evaluate, evaluate_counts
from ilias_jax.positive_counts import PositiveCounts

GROUPINGS = ("scale", "clutter", "categories", "subcategories")


def check(truth: GroundTruth, scores: np.ndarray, length: int, k: int, seed: int = 0) -> Metrics:
    """Compares the two forms, and both with the oracle."""
    queries = truth.image_query_ids + truth.text_query_ids
    num_database = scores.shape[1]
    ranking = ranking_of(queries, scores, length)
    counts = counts_of(queries, scores, truth, length)
    from_list = evaluate(ranking, truth, k, num_database, num_resamples=40, seed=seed)
    from_counts = evaluate_counts(counts, truth, k, num_resamples=40, seed=seed)
    assert json.dumps(from_counts.to_dict()) == json.dumps(from_list.to_dict())
    expected = oracle_report(ranking, truth, k)
    for name in ("aps", "map", "oracle", *GROUPINGS):
        assert getattr(from_counts, name) == pytest.approx(expected[name], abs=1e-9)
    return from_counts


WORLD = random_world(np.random.default_rng(0), num_objects=6, num_queries=9, num_positives=30)
TEXT_WORLD = random_world(np.random.default_rng(1), 6, 9, 30, kind="text")


@pytest.mark.parametrize("seed", range(24))
def test_random_scores(seed):
    """Lists of any length, cut at their end or before, with few or many different scores."""
    rng = np.random.default_rng(seed)
    truth = (WORLD, TEXT_WORLD)[seed % 2]
    levels = int(rng.choice([1, 2, 5, 30, 10**6]))
    scores = rng.integers(-levels, levels, (9, 60)).astype(np.float32) / levels
    if seed % 3:
        scores[:, :30] += np.float32(rng.choice([0.3, 2.0]))  # positives above most others
    length = int(rng.integers(1, 61))
    k = length if seed % 4 else int(rng.integers(1, length + 1))
    check(truth, scores, length, k, seed)


def test_all_scores_equal():
    """One tie of 60 that the cut divides at 20: the 20 lowest indices are in, all of them ranks."""
    metrics = check(WORLD, np.zeros((9, 60), np.float32), 20, 20)
    assert 0 < metrics.map < 100


def test_a_tie_across_the_cut_ends_there():
    scores = np.tile(-np.arange(60, dtype=np.float32), (9, 1))
    scores[:, 15:35] = -15
    check(WORLD, scores, 20, 20)
    check(WORLD, scores, 36, 20)  # a group shortens the ranks before the cut at 20
    check(WORLD, scores, 15, 15)  # a list that ends where the tie begins


def test_queries_that_find_nothing():
    scores = np.random.default_rng(3).random((9, 60), np.float32)
    scores[::2, :30] -= 2
    metrics = check(WORLD, scores, 30, 30)
    assert (metrics.aps[::2] == 0).all() and metrics.aps[1::2].any()


def test_zeros_of_both_signs_tie_and_subnormal_numbers_do_not():
    rng = np.random.default_rng(4)
    scores = rng.choice(np.array([0.0, -0.0, 1e-40, 2e-40, -1e-40], np.float32), (9, 60))
    check(WORLD, scores, 40, 40)


def test_k_beyond_the_database():
    """Lists and counts of all 60 rows score at any k; counts may be exact further than needed."""
    scores = np.random.default_rng(5).integers(0, 9, (9, 60)).astype(np.float32)
    metrics = check(WORLD, scores, 60, 1000)
    assert metrics.oracle == 100.0
    counts = counts_of(WORLD.image_query_ids, scores, WORLD, 1000)
    assert evaluate_counts(counts, WORLD, 1000, 40).to_dict() == metrics.to_dict()


def test_positives_of_objects_without_a_query_are_wrong_answers():
    objects = {query.split("/")[0] for query in WORLD.image_query_ids}
    others = [n for n, p in enumerate(WORLD.positive_ids) if p.split("/")[0] not in objects]
    assert others
    scores = np.random.default_rng(6).random((9, 60), np.float32)
    scores[:, others] = 5
    assert check(WORLD, scores, 60, 60).map < 70


def a_count(truth: GroundTruth = WORLD, k: int = 20) -> PositiveCounts:
    scores = np.random.default_rng(7).random((9, 60), np.float32)
    return counts_of(truth.image_query_ids, scores, truth, k)


def refusal(counts: PositiveCounts, k: int = 20, truth: GroundTruth = WORLD) -> str:
    with pytest.raises(UserError) as caught:
        evaluate_counts(counts, truth, k)
    return str(caught.value)


def test_counts_that_do_not_reach_k_are_refused():
    assert "exact up to 20, but k = 21 of a database of 60 needs 21" in refusal(a_count(), 21)
    assert "needs 60: search again" in refusal(a_count(), 1000)


def test_counts_of_other_positives_are_refused():
    counts = a_count()
    fewer = {name: getattr(counts, name)[1:] for name in ("query", "positive", "score")}
    ranks = {name: getattr(counts, name)[1:] for name in ("at_or_above", "rank")}
    message = refusal(dataclasses.replace(counts, **fewer, **ranks))
    total = len(counts.query)
    assert f"{total - 1} pairs of a query and a positive are not the {total}" in message
    moved = dataclasses.replace(counts, positive=counts.positive + np.int32(30))
    assert "made with another dataset" in refusal(moved)


def test_other_queries_and_databases_are_refused():
    counts = a_count()
    assert "not in the ground truth" in refusal(counts, truth=TEXT_WORLD)
    strangers = dataclasses.replace(counts, query_ids=tuple(f"{q}.x" for q in counts.query_ids))
    assert "counts: 9 query ids" in refusal(strangers)
    small = dataclasses.replace(counts, num_database=29)
    assert "smaller than the 30 positives" in refusal(small)


def test_arguments_out_of_range_are_refused():
    with pytest.raises(ValueError, match="k = 0"):
        evaluate_counts(a_count(), WORLD, 0)
    with pytest.raises(ValueError, match="num_resamples = 39"):
        evaluate_counts(a_count(), WORLD, 20, 39)
