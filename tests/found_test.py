"""Where positives stand in a list, by hand, from lists and from counts."""

import jax
import numpy as np
import pytest
from counts_oracle import counts_of, ranking_of
from metrics_oracle import random_world

from ilias_jax.ground_truth import GroundTruth
from ilias_jax.metrics.found import NOT_FOUND, found_in_counts, found_in_ranking
from ilias_jax.metrics.groups import make_labels

QUERIES = ("a/query/Q0.jpg", "b/query/Q0.jpg")


def small_truth() -> GroundTruth:
    """Object a has the positives 0, 1 and 3, object b 2, and c, without a query, 4."""
    names = ("a/pos/P0", "a/pos/P1", "b/pos/P0", "a/pos/P2", "c/pos/P0")
    return GroundTruth(
        image_query_ids=QUERIES,
        text_query_ids=(),
        positive_ids=names,
        scale=np.zeros(5),
        clutter=np.zeros(5, np.int32),
        taxonomy=dict.fromkeys("abc", ("x", "y", "z")),
    )


def small_scores() -> np.ndarray:
    """Query a: 6 | 3, 5, 1 tie | 0, 2 | 4. Query b: its positive is the last of all."""
    of_a = [2.0, 3.0, 2.0, 3.0, 1.0, 3.0, 4.0]
    return np.array([of_a, [3, 3, -1, 3, 3, 3, 3]], np.float32)


def both(length: int) -> list:
    """The two rows of what the list and the counts up to `length` say, which must be the same."""
    truth, scores = small_truth(), small_scores()
    labels = make_labels(QUERIES, truth)
    ranking = found_in_ranking(ranking_of(QUERIES, scores, length), labels)
    counts = found_in_counts(counts_of(QUERIES, scores, truth, length), labels)
    jax.tree.map(np.testing.assert_array_equal, ranking, counts)
    assert (ranking.rank[2:] == NOT_FOUND).all()
    return [array[:2].tolist() for array in ranking]


def test_a_list_that_ends_between_ties():
    gone = int(NOT_FOUND)
    positive, rank, tie_end, last_of_tie = both(4)
    assert positive == [[1, 3, 0], [0, 0, 0]]
    assert rank == [[2, 3, gone], [gone] * 3]
    assert tie_end == [[4, 4, gone], [gone] * 3]
    assert last_of_tie == [[1, 1, 0], [0, 0, 0]]


@pytest.mark.parametrize(("length", "end"), [(2, 2), (3, 3), (5, 4), (6, 4)])
def test_a_tie_ends_with_the_list(length, end):
    assert both(length)[2][0][0] == end


def test_the_whole_database():
    positive, rank, tie_end, last_of_tie = both(7)
    assert positive == [[1, 3, 0], [2, 0, 0]]
    assert rank[0] == [2, 3, 5] and rank[1][0] == 7
    assert tie_end[0] == [4, 4, 6] and last_of_tie[0] == [1, 1, 2]


def test_shapes_depend_on_the_objects_alone():
    """Else every ranking, and every kind of query, would be compiled anew."""
    truth, scores = small_truth(), small_scores()
    queries = (*QUERIES, "a/query/Q1.jpg")
    shapes = set()
    for number, length in ((2, 1), (2, 7), (3, 7)):
        labels = make_labels(queries[:number], truth)
        found = found_in_ranking(
            ranking_of(queries[:number], scores[[0, 1, 0][:number]], length), labels
        )
        shapes |= {array.shape for array in found}
    assert shapes == {(2048, 3)}


@pytest.mark.parametrize("seed", range(10))
def test_lists_and_counts_say_the_same(seed):
    rng = np.random.default_rng(seed)
    truth = random_world(rng, 5, 8, 25)
    labels = make_labels(truth.image_query_ids, truth)
    scores = rng.integers(0, int(rng.choice([1, 4, 1000])), (8, 40)).astype(np.float32)
    length = int(rng.integers(1, 41))
    ranking = found_in_ranking(ranking_of(truth.image_query_ids, scores, length), labels)
    counts = counts_of(truth.image_query_ids, scores, truth, length)
    jax.tree.map(np.testing.assert_array_equal, ranking, found_in_counts(counts, labels))
