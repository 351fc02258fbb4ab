"""What must hold before a ranking may be scored; each is a way to get a wrong number quietly."""

from collections import Counter
from collections.abc import Collection, Sequence

import numpy as np

from ilias_jax.errors import UserError
from ilias_jax.ground_truth import GroundTruth
from ilias_jax.metrics.own_positives import own_positives
from ilias_jax.positive_counts import PositiveCounts
from ilias_jax.ranking import Ranking

MIN_RESAMPLES = 40  # 2.5 % of fewer is less than one resample


def check_arguments(k: int, num_resamples: int, seed: int) -> None:
    """Raises ValueError where a plain argument of `evaluate` is out of range."""
    if k < 1:
        raise ValueError(f"k = {k}; expected k >= 1, the official value is 1000")
    if num_resamples < MIN_RESAMPLES:
        raise ValueError(f"num_resamples = {num_resamples}; expected at least {MIN_RESAMPLES}")
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed = {seed}; expected 0 <= seed < 2**32")


def check_queries(
    query_ids: Sequence[str], ground_truth: GroundTruth, source: str = "ranking"
) -> None:
    """Raises UserError unless the queries are all image queries or all text queries, once each.

    Args:
        query_ids: of the ranking or the counts.
        ground_truth: the labels.
        source: what the queries come from, for the message.
    """
    kinds = {
        "image": set(ground_truth.image_query_ids),
        "text": set(ground_truth.text_query_ids),
    }
    known = kinds["image"] | kinds["text"]
    if unknown := [query for query in query_ids if query not in known]:
        raise UserError(
            f"{source}: {_some(unknown)} not in the ground truth; expected the ids of its image "
            "queries or of its text queries: was the search made with another dataset?"
        )
    if repeated := [query for query, times in Counter(query_ids).items() if times > 1]:
        raise UserError(f"{source}: {_some(repeated)} given more than once; expected each id once")
    found = {kind: ids.intersection(query_ids) for kind, ids in kinds.items()}
    if found["image"] and found["text"]:
        raise UserError(
            f"{source}: holds {len(found['image'])} image queries and {len(found['text'])} text "
            "queries; they are two results and have no common average: evaluate them apart"
        )
    kind = "text" if found["text"] else "image"
    if missing := sorted(kinds[kind] - found[kind]):
        raise UserError(
            f"{source}: {_some(missing)} missing; expected all {len(kinds[kind])} {kind} queries: "
            "a mean over fewer queries is another benchmark"
        )
    if not query_ids:
        raise UserError(f"{source}: holds no query; expected all image queries or all text queries")


def check_database(ranking: Ranking, ground_truth: GroundTruth, k: int, num_database: int) -> None:
    """Raises UserError where the lists are shorter than k, or belong to another database."""
    _check_size(num_database, ground_truth)
    length = ranking.indices.shape[1]
    if length < min(k, num_database):
        raise UserError(
            f"ranking: lists of {length} entries, but k = {k} of a database of {num_database} "
            f"needs {min(k, num_database)}: search again with that many, or evaluate with "
            f"k <= {length}"
        )
    if (largest := int(ranking.indices.max())) >= num_database:
        raise UserError(
            f"ranking: database index {largest}, but the database has {num_database} images; "
            "expected the database that was searched"
        )


def check_counts(counts: PositiveCounts, ground_truth: GroundTruth, k: int) -> None:
    """Raises UserError where counts are not exact up to k, or belong to other positives."""
    _check_size(counts.num_database, ground_truth)
    if counts.k < (needed := min(k, counts.num_database)):
        raise UserError(
            f"counts: exact up to {counts.k}, but k = {k} of a database of {counts.num_database} "
            f"needs {needed}: search again with that many, or evaluate with k <= {counts.k}"
        )
    pairs = own_positives(counts.query_ids, ground_truth)
    if not all(map(np.array_equal, (counts.query, counts.positive), pairs)):
        raise UserError(
            f"counts: {len(counts.query)} pairs of a query and a positive are not the "
            f"{len(pairs[0])} of the ground truth; expected every query with all positives of its "
            "object: was the search made with another dataset?"
        )


def _check_size(num_database: int, ground_truth: GroundTruth) -> None:
    """Raises UserError where the database cannot hold the positives."""
    num_positives = len(ground_truth.positive_ids)
    if num_database < num_positives:
        raise UserError(
            f"database of {num_database} images: smaller than the {num_positives} positives that "
            "it begins with"
        )


def _some(ids: Collection[str]) -> str:
    """The number of ids and the first few, for a message."""
    first = ", ".join(repr(query) for query in list(ids)[:3])
    more = ", ..." if len(ids) > 3 else ""
    return f"{len(ids)} query ids ({first}{more})"
