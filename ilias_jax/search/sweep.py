"""What a ScaNN index misses, and how fast it is, at several numbers of leaves to search."""

import dataclasses
import statistics
import time
from collections.abc import Callable, Sequence

import numpy as np

_ROUNDS = 3


@dataclasses.dataclass(frozen=True)
class SweepPoint:
    """One setting of an index.

    Attributes:
        num_leaves_to_search: of every part.
        ann_recall: ANN recall@k against exact search, in [0, 1].
        queries_per_s: of the median of three searches, exact scores of the candidates included.
    """

    num_leaves_to_search: int
    ann_recall: float
    queries_per_s: float


def sweep(
    search: Callable[[int], tuple[np.ndarray, np.ndarray]],
    exact: np.ndarray,
    leaves: Sequence[int],
) -> list[SweepPoint]:
    """Searches with every number of leaves, in turn, after one search that is not timed.

    Args:
        search: from a number of leaves to scores and database indices [Q, k]; -1 behind a list
            that is shorter.
        exact: [Q, k] database indices of exact search.
        leaves: numbers of leaves to search.

    Returns:
        One point a number, in the order given.
    """
    seconds: dict[int, list[float]] = {visited: [] for visited in leaves}
    found = {visited: search(visited)[1] for visited in list(seconds)[:1]}
    for _ in range(_ROUNDS):
        for visited, times in seconds.items():
            start = time.perf_counter()
            found[visited] = search(visited)[1]
            times.append(time.perf_counter() - start)
    return [
        SweepPoint(
            visited, ann_recall(exact, found[visited]), len(exact) / statistics.median(times)
        )
        for visited, times in seconds.items()
    ]


def ann_recall(exact: np.ndarray, approximate: np.ndarray) -> float:
    """ANN recall@k: mean share of the exact lists [Q, K] that the approximate lists [Q, K] hold."""
    shares = [np.isin(a, b).mean() for a, b in zip(exact, approximate, strict=True)]
    return float(np.mean(shares))
