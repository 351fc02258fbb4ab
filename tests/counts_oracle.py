"""All scores of a search at once, and what a ranking and a count make of them, in plain Python."""

from collections.abc import Sequence

import numpy as np

from ilias_jax.ground_truth import GroundTruth
from ilias_jax.positive_counts import PositiveCounts
from ilias_jax.ranking import Ranking


def ranking_of(query_ids: Sequence[str], scores: np.ndarray, length: int) -> Ranking:
    """The first `length` database rows of scores [Q, N], lower indices first in a tie."""
    order = np.stack([np.lexsort((np.arange(len(row)), -row))[:length] for row in scores])
    best = np.take_along_axis(scores, order, axis=1)
    return Ranking(tuple(query_ids), order.astype(np.int32), best)


def counts_of(
    query_ids: Sequence[str], scores: np.ndarray, truth: GroundTruth, k: int
) -> PositiveCounts:
    """Counts the rows of scores [Q, N] for each positive of each query, one by one."""
    pairs = []
    for q, query in enumerate(query_ids):
        row = scores[q].tolist()
        for p, positive in enumerate(truth.positive_ids):
            if positive.split("/")[0] == query.split("/")[0]:
                above = sum(score > row[p] for score in row)
                tied = [n for n, score in enumerate(row) if score == row[p]]
                rank = above + 1 + tied.index(p)
                pairs.append(
                    (q, p, row[p], min(above + len(tied), k + 1), min(rank, k + 1)),
                )
    query, positive, score, at_or_above, rank = map(np.array, zip(*pairs, strict=True))
    return PositiveCounts(
        tuple(query_ids),
        k,
        scores.shape[1],
        query.astype(np.int32),
        positive.astype(np.int32),
        score.astype(np.float32),
        at_or_above.astype(np.int32),
        rank.astype(np.int32),
    )
