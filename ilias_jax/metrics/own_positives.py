"""Which pairs of a query and a positive a search without lists has to count."""

from collections.abc import Sequence

import numpy as np

from ilias_jax.ground_truth import GroundTruth
from ilias_jax.metrics.groups import number_objects


def own_positives(
    query_ids: Sequence[str], ground_truth: GroundTruth
) -> tuple[np.ndarray, np.ndarray]:
    """Pairs every query with the positives of its object, in the order of `PositiveCounts`.

    Args:
        query_ids: Q ids.
        ground_truth: the labels.

    Returns:
        query [n] int32 in [0, Q), not falling, and positive [n] int32 database indices, rising
        within a query.
    """
    _, query_object, positive_object = number_objects(query_ids, ground_truth.positive_ids)
    by_object = np.argsort(positive_object, kind="stable")
    first, behind = (
        np.searchsorted(positive_object[by_object], query_object, side=side)
        for side in ("left", "right")
    )
    count = behind - first
    query = np.repeat(np.arange(len(count), dtype=np.int32), count)
    # The pairs of a query are neighbours in `by_object` too: one shift a query leads there.
    shift = first - (np.cumsum(count) - count)
    positive = by_object[np.arange(len(query)) + shift[query]]
    return query, positive.astype(np.int32)
