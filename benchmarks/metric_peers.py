"""The numbers of an evaluation as one would write them with scikit-learn or with numpy alone.

`benchmarks/metrics.py` times these beside ours. Labels are numbers already, no ids are compared.
"""

import numpy as np
from sklearn.metrics import average_precision_score

from ilias_jax.dataset.ground_truth import GroundTruth
from ilias_jax.metrics.groups import Labels, make_labels
from ilias_jax.search.ranking import Ranking


def group_masks(ranking: Ranking, labels: Labels) -> tuple[np.ndarray, np.ndarray]:
    """Of each entry: it is an own positive [Q, K]; it is a member of each group [G, Q, K]."""
    positive = np.minimum(ranking.indices, len(labels.positive_object) - 1)
    own = labels.positive_object[positive] == labels.query_object[:, None]
    own &= ranking.indices < len(labels.positive_object)
    return own, labels.members[:, positive]


def group_sizes(labels: Labels) -> np.ndarray:
    """[G, Q] positives of each query in each group."""
    num_objects = len(labels.categories) + 1
    sizes = [np.bincount(labels.positive_object[m], minlength=num_objects) for m in labels.members]
    return np.stack(sizes)[:, labels.query_object]


def means(aps: np.ndarray, sizes: np.ndarray, labels: Labels) -> dict[str, float]:
    """The report's means of APs [G, Q] in percent."""
    by_object = np.bincount(labels.query_object, aps[0]) / np.bincount(labels.query_object)
    values = [row[size > 0].mean() for row, size in zip(aps, sizes, strict=True)]
    values += [by_object[members].mean() for members in labels.categories.T]
    names = [name for name in labels.names if name[0] != "oracle"]
    return {"/".join(name): 100 * value for name, value in zip(names, values, strict=True)}


def with_sklearn(ranking: Ranking, truth: GroundTruth, k: int) -> dict[str, float]:
    """One call of scikit-learn for each query and group."""
    labels = make_labels(ranking.query_ids, truth)
    own, members = group_masks(ranking, labels)
    sizes = group_sizes(labels)
    aps = np.zeros(sizes.shape)
    for group, query in zip(*np.nonzero(sizes), strict=True):
        hit = own[query] & members[group, query]
        kept = hit | ~own[query]
        hit, scores = hit[kept][:k], ranking.scores[query][kept][:k]
        if hit.any():
            best = min(k, sizes[group, query])
            aps[group, query] = average_precision_score(hit, scores) * hit.sum() / best
    return means(aps, sizes, labels)


def with_numpy(ranking: Ranking, truth: GroundTruth, k: int, resamples: int) -> dict[str, float]:
    """All lists at once, a pass for each group; intervals are computed and thrown away."""
    labels = make_labels(ranking.query_ids, truth)
    own, members = group_masks(ranking, labels)
    sizes = group_sizes(labels)
    ends = np.ones(own.shape, bool)
    ends[:, :-1] = ranking.scores[:, 1:] != ranking.scores[:, :-1]
    aps = np.empty(sizes.shape)
    for group, size in enumerate(sizes):
        hit = own & members[group]
        rank = np.cumsum(hit | ~own, axis=1)
        hit &= rank <= k
        at_end = [
            np.minimum.accumulate(np.where(ends, counts, k + 1)[:, ::-1], axis=1)[:, ::-1]
            for counts in (np.cumsum(hit, axis=1), np.clip(rank, 1, k))
        ]
        total = np.where(hit, at_end[0] / at_end[1], 0).sum(axis=1)
        aps[group] = total / np.clip(size, 1, k)
    recall = own[:, :k].sum(axis=1) / sizes[0]
    values = np.where(sizes > 0, aps, 0)
    plain_intervals(np.concatenate([values, recall[None]]), sizes > 0, labels, resamples)
    return means(aps, sizes, labels)


def plain_intervals(
    values: np.ndarray, counted: np.ndarray, labels: Labels, resamples: int
) -> np.ndarray:
    """[2, S] ends of 95 % intervals; values [G + 1, Q], the last row counts all queries."""
    weights = np.concatenate([counted, np.ones((1, values.shape[1]), bool)])
    sums, queries = (
        np.stack([np.bincount(labels.query_object, row) for row in rows], axis=1)
        for rows in (values, weights)
    )
    per_object = sums[:, :1] / queries[:, :1] * labels.categories
    num_objects = len(sums)
    rng = np.random.default_rng(0)
    counts = rng.multinomial(num_objects, np.full(num_objects, 1 / num_objects), resamples)
    counts = counts.astype(np.float64)
    with np.errstate(invalid="ignore"):
        ratios = counts @ np.concatenate([sums, per_object], axis=1)
        ratios /= counts @ np.concatenate([queries, labels.categories], axis=1)
    return np.nanpercentile(ratios, [2.5, 97.5], axis=0)
