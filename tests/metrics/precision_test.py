"""AP@k by hand, and against scikit-learn on lists full of ties."""

from typing import Any

import jax
import numpy as np
import pytest
from metrics_oracle import oracle_ap

from ilias_jax.metrics.groups import Labels
from ilias_jax.metrics.scores import NOT_FOUND, average_precision, find_positives


def score_rows(
    scores: np.ndarray, own: np.ndarray, removed: np.ndarray, num_positives: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """APs and recalls of lists [n, K], of which the marked entries are positives."""
    owner, entry = np.nonzero(own)
    indices = np.tile(len(owner) + np.arange(scores.shape[1]), (len(scores), 1))
    indices[owner, entry] = np.arange(len(owner))
    every = np.arange(len(scores))
    # One more positive for each that is in no list.
    owners = np.concatenate([owner, every]).astype(np.int32)
    indices += (indices >= len(owner)) * len(every)
    labels = Labels(every.astype(np.int32), owners, np.empty(0), np.empty(0), ())
    offsets = scores.shape[1] * np.arange(len(scores) + 1)
    found = find_positives(indices.astype(np.int32).ravel(), scores.ravel(), offsets, labels)
    kept = ~np.append(removed[own], np.zeros(len(every), bool))[found.positive]
    with jax.enable_x64(True):
        filled_up = np.resize(num_positives, len(found.rank))
        ap, recall, _ = jax.jit(average_precision)(found, kept, filled_up, np.int32(k))
    assert ap.dtype == recall.dtype == np.float64
    return np.asarray(ap)[: len(scores)], np.asarray(recall)[: len(scores)]


def score(
    scores: list[float], found: list[int], num_positives: int, k: int, kept: list[int] | None = None
) -> tuple[float, float]:
    """(AP, recall) of one list, as floats; what is not kept is a positive of another group."""
    removed = np.array([np.logical_not(kept or [1] * len(found))])
    own = np.array([found], bool) | removed
    rows = np.array([scores], np.float32)
    ap, recall = score_rows(rows, own, removed, np.array([num_positives], np.int32), k)
    return float(ap[0]), float(recall[0])


@pytest.mark.parametrize(
    ("scores", "found", "num_positives", "k", "ap", "recall"),
    [
        # Found at ranks 1 and 3 of 2 positives: (1/1 + 2/3) / 2.
        ([5, 4, 3, 2], [1, 0, 1, 0], 2, 4, 5 / 6, 1.0),
        # The same with 4 positives: two are not found.
        ([5, 4, 3, 2], [1, 0, 1, 0], 4, 4, 5 / 12, 0.5),
        # Cut at 2: the positive at rank 3 is lost, and the best possible sum is 2.
        ([5, 4, 3, 2], [1, 0, 1, 0], 3, 2, 1 / 2, 1 / 3),
        # k = 1 below P = 3: a perfect list.
        ([5, 4], [1, 1], 3, 1, 1.0, 1 / 3),
        # All four tie: precision at the end is 1/4, wherever in the tie the positive is.
        ([1, 1, 1, 1], [1, 0, 0, 0], 1, 4, 1 / 4, 1.0),
        ([1, 1, 1, 1], [0, 0, 0, 1], 1, 4, 1 / 4, 1.0),
        # A tie of two behind a hit: (1/1 + 2/3 + ...) with a positive inside the tie.
        ([2, 1, 1, 0], [1, 1, 0, 0], 2, 4, (1 + 2 / 3) / 2, 1.0),
        # A tie that the cut divides ends at the cut: 1/2, not 1/3.
        ([1, 1, 1], [1, 0, 0], 1, 2, 1 / 2, 1.0),
        # Minus zero ties with zero.
        ([0.0, -0.0], [1, 0], 1, 2, 1 / 2, 1.0),
        # Subnormal scores that differ are no tie, though a CPU may flush them to zero.
        ([2e-40, 1e-40], [1, 0], 1, 2, 1.0, 1.0),
        # Nothing found.
        ([3, 2], [0, 0], 5, 2, 0.0, 0.0),
        # A list of one entry, k beyond it.
        ([3], [1], 2, 1000, 1 / 2, 1 / 2),
    ],
)
def test_by_hand(
    scores: Any, found: Any, num_positives: int, k: int, ap: float, recall: float
) -> None:
    assert score(scores, found, num_positives, k) == pytest.approx((ap, recall), abs=1e-15)


def test_removed_entries_leave_before_the_cut() -> None:
    # Without entry 0 the list is [no, yes, yes]; cut at 2 it is [no, yes].
    result = score([4, 3, 2, 1], [1, 0, 1, 1], 2, 2, kept=[0, 1, 1, 1])
    assert result == pytest.approx(((1 / 2) / 2, 1 / 2), abs=1e-15)


def test_a_removed_entry_does_not_lengthen_its_tie() -> None:
    # The tie keeps two of its three entries, so it ends at rank 2, also if the last one goes.
    assert score([1, 1, 1], [1, 1, 0], 1, 3, kept=[1, 0, 1])[0] == pytest.approx(1 / 2)
    assert score([1, 1, 1], [1, 0, 1], 1, 3, kept=[1, 1, 0])[0] == pytest.approx(1 / 2)


def test_a_list_without_a_kept_entry_scores_zero() -> None:
    assert score([2, 1], [1, 1], 0, 2, kept=[0, 0]) == (0.0, 0.0)


@pytest.mark.parametrize(("levels", "k"), [(2, 7), (2, 500), (5, 1), (5, 30), (1000, 7)])
def test_equals_scikit_learn(levels: int, k: int) -> None:
    rng = np.random.default_rng(levels * 1000 + k)
    length, num_lists = 30, 40
    scores = -np.sort(-rng.integers(0, levels, (num_lists, length)), axis=1).astype(np.float32)
    own = rng.random((num_lists, length)) < rng.choice([0.02, 0.3, 0.9], (num_lists, 1))
    removed = own & (rng.random(own.shape) < 0.4)
    found = own & ~removed
    num_positives = (found.sum(axis=1) + rng.integers(1, 4, num_lists)).astype(np.int32)
    aps, recalls = score_rows(scores, own, removed, num_positives, k)
    for n in range(num_lists):
        unlisted = range(length, length + num_positives[n] - found[n].sum())
        wanted = {*np.flatnonzero(found[n]), *unlisted}
        expected = oracle_ap(range(length), scores[n], wanted, set(np.flatnonzero(removed[n])), k)
        assert (float(aps[n]), float(recalls[n])) == pytest.approx(expected, abs=1e-12)


def test_positives_in_lists_by_hand() -> None:
    """Object 0 has the positives 0, 1 and 3, object 1 has 2, no query has 4; 9 is no positive."""
    labels = Labels(
        query_object=np.array([0, 0, 1], np.int32),
        positive_object=np.array([0, 0, 1, 0, 2], np.int32),
        members=np.empty(0),
        categories=np.empty(0),
        names=(),
    )
    entries = np.array([9, 3, 9, 1, 2, 0, 2, 9], np.int32)
    scores = np.array([4.0, 3.0, 3.0, 3.0, 2.0, 2.0, 2.0, 2.0])
    found = find_positives(entries, scores, np.array([0, 6, 6, 8]), labels)
    gone = int(NOT_FOUND)
    assert {name: array[:3].tolist() for name, array in found._asdict().items()} == {
        "positive": [[3, 1, 0], [0, 0, 0], [2, 0, 0]],
        "rank": [[2, 4, 6], [gone] * 3, [1, gone, gone]],
        "tie_start": [[2, 2, 5], [gone] * 3, [1, gone, gone]],
        "tie_end": [[4, 4, 6], [gone] * 3, [2, gone, gone]],
        "first_of_tie": [[0, 0, 2], [0, 0, 0], [0, 0, 0]],
        "last_of_tie": [[1, 1, 2], [0, 0, 0], [0, 0, 0]],
    }
    assert (found.rank[3:] == NOT_FOUND).all() and found.rank.shape == (2048, 3)
