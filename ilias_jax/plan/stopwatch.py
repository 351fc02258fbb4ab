"""Steady seconds of a call within a budget of time, and the memory of this process."""

import resource
import statistics
import sys
import time
from collections.abc import Callable

_MOST_RUNS = 50


def steady_seconds(call: Callable[[], object], budget: float) -> float:
    """Median seconds of a call that was made once before, so that it has compiled.

    Args:
        call: waits for its result.
        budget: seconds for all calls after the first; at least one is made.
    """
    call()
    runs: list[float] = []
    while not runs or (sum(runs) + runs[-1] <= budget and len(runs) < _MOST_RUNS):
        start = time.perf_counter()
        call()
        runs.append(time.perf_counter() - start)
    return statistics.median(runs)


def resident_bytes() -> int:
    """Peak memory of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
