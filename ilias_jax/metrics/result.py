"""The numbers of one evaluation."""

import dataclasses
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class Metrics:
    """The protocol's numbers, all of them percentages.

    Attributes:
        k: the cut of the lists.
        query_ids: [Q] ids, in the order of the ranking.
        aps: [Q] float64 AP@k of each query.
        group_aps: section (scale, clutter) -> key -> [Q] float64 AP@k of each query within the
            group, NaN where the query has no positive in it.
        map: mean AP@k over queries, mAP@k.
        ci95: 95 % interval of `map`, objects resampled.
        oracle: mean over queries of the share of a query's positives among the first k. It is
            the mAP@k of a perfect re-ranking of the list where no query has more than k positives.
        scale: "low-high" -> mean AP@k over the queries with a positive of that object area ratio,
            the other positives being taken out of ranking and ground truth.
        clutter: the same for the clutter of the positives.
        categories: coarse category -> mean over objects of the mean over the object's queries.
        subcategories: the same for "coarse-mid".
        intervals: section (oracle, scale, clutter, categories, subcategories) -> key -> 95 %
            interval. Groups of few objects give intervals that are too narrow.
        counts: section (scale, clutter: queries; categories, subcategories: objects) -> key ->
            how many the number is the mean of. Groups without any are left out everywhere.
    """

    k: int
    query_ids: tuple[str, ...]
    aps: np.ndarray
    group_aps: dict[str, dict[str, np.ndarray]]
    map: float
    ci95: tuple[float, float]
    oracle: float
    scale: dict[str, float]
    clutter: dict[str, float]
    categories: dict[str, float]
    subcategories: dict[str, float]
    intervals: dict[str, dict[str, tuple[float, float]]]
    counts: dict[str, dict[str, int]]

    @property
    def num_queries(self) -> int:
        """The number of queries, Q."""
        return len(self.query_ids)

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values for JSON.

        The mean is under "map@<k>", `aps` are by query id; those of `group_aps` are lists in the
        same order, with None where the query has no positive in the group.
        """
        return {
            f"map@{self.k}": self.map,
            "ci95": list(self.ci95),
            "oracle": self.oracle,
            "scale": dict(self.scale),
            "clutter": dict(self.clutter),
            "categories": dict(self.categories),
            "subcategories": dict(self.subcategories),
            "num_queries": self.num_queries,
            "intervals": {
                section: {key: list(interval) for key, interval in intervals.items()}
                for section, intervals in self.intervals.items()
            },
            "counts": {section: dict(counts) for section, counts in self.counts.items()},
            "aps": dict(zip(self.query_ids, self.aps.tolist(), strict=True)),
            "group_aps": {
                section: {key: _or_none(aps) for key, aps in groups.items()}
                for section, groups in self.group_aps.items()
            },
        }


def _or_none(values: np.ndarray) -> list[float | None]:
    """Values as a list, None for NaN."""
    return [None if np.isnan(value) else value for value in values.tolist()]
