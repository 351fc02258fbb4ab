"""Gives the statistics of an evaluation their names."""

from collections.abc import Sequence

import numpy as np

from ilias_jax.metrics.groups import Labels
from ilias_jax.metrics.result import Metrics

_GROUPINGS = ("scale", "clutter", "categories", "subcategories")


def name_statistics(
    k: int,
    query_ids: tuple[str, ...],
    aps: np.ndarray,
    counted: np.ndarray,
    labels: Labels,
    statistics: Sequence[np.ndarray],
) -> Metrics:
    """Sorts S statistics into the sections of `Metrics`; a group of nothing is left out.

    Args:
        k: the cut.
        query_ids: Q ids.
        aps: [G, Q] float64 percentages, the first group being all positives.
        counted: [G, Q] bool, the query has a positive of the group.
        labels: its `names` are those of the statistics, in the same order.
        statistics: values, weights (how many queries or objects are behind each), low and high
            ends of the intervals, each [S] float64.
    """
    values: dict[str, dict[str, float]] = {section: {} for section, _ in labels.names}
    intervals: dict[str, dict[str, tuple[float, float]]] = {section: {} for section in values}
    counts: dict[str, dict[str, int]] = {section: {} for section in values}
    for (section, key), value, weight, low, high in zip(labels.names, *statistics, strict=True):
        if weight > 0:
            values[section][key] = float(value)
            intervals[section][key] = (float(low), float(high))
            counts[section][key] = int(weight)
    group_aps: dict[str, dict[str, np.ndarray]] = {"scale": {}, "clutter": {}}
    groups = [name for name in labels.names if name[0] in group_aps]
    for (section, key), row, there in zip(groups, aps[1:], counted[1:], strict=True):
        if there.any():
            group_aps[section][key] = np.where(there, row, np.nan)
    return Metrics(
        k=k,
        query_ids=query_ids,
        aps=aps[0],
        group_aps=group_aps,
        map=values["map"]["map"],
        ci95=intervals["map"]["map"],
        oracle=values["oracle"]["oracle"],
        **{section: values[section] for section in _GROUPINGS},
        intervals={section: intervals[section] for section in ("oracle", *_GROUPINGS)},
        counts={section: counts[section] for section in _GROUPINGS},
    )
