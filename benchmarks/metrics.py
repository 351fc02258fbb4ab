"""Times all scores of a search at ILIAS's size beside scikit-learn and plain numpy.

    python benchmarks/metrics.py [--entries 1000] [--resamples 10000] [--rounds 5]

1,232 image queries and 1,000 text queries, 1,000 objects, 4,715 positives, 100 million database
rows of which the rankings hold the best 1,000. Every round runs four things for both kinds in turn:

* ranking: `evaluate` of the two rankings, with all groups, categories and intervals;
* numpy: the same numbers from cumulative sums over the lists, and a bootstrap by `multinomial`;
* scikit-learn: `average_precision_score` of each query and group and the means, no intervals;
* bare product: numpy's [resamples, objects] x [objects, sums] in float64, the least a bootstrap is.

Compile time is that of the first call less a steady one. A table and a JSON line go to the screen,
the JSON also to `--output`.
"""

import argparse
import json
import os
import pathlib
import platform
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import sklearn
from evaluate import write_world
from metric_peers import with_numpy, with_sklearn

from ilias_jax.dataset.ground_truth import GroundTruth
from ilias_jax.metrics import Metrics, evaluate
from ilias_jax.metrics.groups import make_labels
from ilias_jax.search.ranking import Ranking

_RESULTS = pathlib.Path(__file__).parent / "results" / "metrics.json"
_NUM_QUERIES, _NUM_DATABASE, _TARGET_SECONDS = 1232, 100_000_000, 1.0
Way = Callable[[Ranking], Mapping[str, Any]]


def make_ranking(
    rng: np.random.Generator, query_ids: tuple[str, ...], truth: GroundTruth, length: int
) -> Ranking:
    """Lists of distractors with most own positives at some rank, ties among the scores."""
    labels = make_labels(query_ids, truth)
    num_positives = len(truth.positive_ids)
    indices = np.empty((len(query_ids), length), np.int32)
    step = (_NUM_DATABASE - num_positives) // length
    for row, line in enumerate(indices):
        line[:] = num_positives + rng.permutation(length) * step + rng.integers(0, step, length)
        found = np.flatnonzero(labels.positive_object == labels.query_object[row])
        found = found[rng.random(len(found)) < 0.7][:length]
        places = (rng.random(4 * len(found)) ** 3 * length).astype(int)
        line[np.unique(places)[: len(found)]] = found[: len(np.unique(places))]
    scores = rng.integers(0, 10**5, indices.shape).astype(np.float32) / 10**5
    return Ranking(query_ids, indices, -np.sort(-scores, axis=1))


def make_cases(length: int) -> tuple[GroundTruth, dict[str, Ranking]]:
    """The labels, and a search for both kinds of query."""
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        truth = write_world(pathlib.Path(folder) / "world", rng, _NUM_QUERIES)
    cases = {}
    for kind, ids in (("image", truth.image_query_ids), ("text", truth.text_query_ids)):
        cases[kind] = make_ranking(rng, ids, truth, length)
    return truth, cases


def plain(metrics: Metrics) -> dict[str, float]:
    """The means by the names of `means`."""
    sections = ("scale", "clutter", "categories", "subcategories")
    values = {f"{s}/{key}": v for s in sections for key, v in getattr(metrics, s).items()}
    return {"map/map": metrics.map, **values}


def peak_megabytes() -> int:
    """The most memory this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def seconds_of(way: Way, ranking: Ranking) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    way(ranking)
    return time.perf_counter() - start


def largest_difference(ways: Mapping[str, Way], cases: Mapping[str, Any]) -> tuple[int, float]:
    """How many means all ways gave, and by how much they differ at most."""
    differences = []
    for case in cases.values():
        ranked, *others = (way(case) for way in ways.values())
        for other in others:
            assert other.keys() == ranked.keys()
            differences += [abs(other[key] - ranked[key]) for key in other]
    return len(differences) // 2, max(differences)


def main() -> None:
    """Prints the table and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for name, default in (("entries", 1000), ("resamples", 10_000), ("rounds", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--output", type=pathlib.Path, default=_RESULTS)
    arguments = parser.parse_args()
    k, resamples = arguments.entries, arguments.resamples
    truth, cases = make_cases(k)
    ways: dict[str, Way] = {
        "ranking": lambda r: plain(evaluate(r, truth, k, _NUM_DATABASE, resamples)),
        "numpy": lambda r: with_numpy(r, truth, k, resamples),
        "scikit-learn": lambda r: with_sklearn(r, truth, k),
    }
    labels = make_labels(truth.text_query_ids, truth)
    drawn = np.ones((resamples, len(labels.categories)))
    sums = np.ones((len(labels.categories), 2 * len(labels.names)))
    memory = {"before": peak_megabytes()}
    # One program for both kinds: only the very first call compiles.
    first = {kind: seconds_of(ways["ranking"], case) for kind, case in cases.items()}
    memory["ours"] = peak_megabytes()
    number, difference = largest_difference(ways, cases)
    memory["all"] = peak_megabytes()
    ways["bare product"] = lambda _: {"product": drawn @ sums}
    times: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
    for _ in range(arguments.rounds):
        for name, way in ways.items():
            times[name].append({kind: seconds_of(way, case) for kind, case in cases.items()})
    report(arguments, times, first, memory, (number, difference))


def report(
    arguments: argparse.Namespace,
    times: Mapping[str, list[dict[str, float]]],
    first: Mapping[str, float],
    memory: Mapping[str, int],
    difference: tuple[int, float],
) -> None:
    """Prints medians and ratios, and writes them with the raw times."""
    medians = {
        name: {kind: statistics.median(run[kind] for run in runs) for kind in first}
        for name, runs in times.items()
    }
    both = {name: statistics.median(sum(run.values()) for run in times[name]) for name in times}
    compiling = {kind: first[kind] - medians["ranking"][kind] for kind in first}
    print(f"{'seconds, medians':<18}{'image':>9}{'text':>9}{'both':>9}{'of ranking':>12}")
    for name, seconds in medians.items():
        columns = "".join(f"{value:>9.3f}" for value in (*seconds.values(), both[name]))
        print(f"{name:<18}{columns}{both[name] / both['ranking']:>12.2f}")
    print(f"{'compile time':<18}" + "".join(f"{value:>9.3f}" for value in compiling.values()))
    met = both["ranking"] < _TARGET_SECONDS
    print(f"target: both kinds in under {_TARGET_SECONDS:g} s: {'met' if met else 'NOT MET'}")
    print(f"{difference[0]} means differ by at most {difference[1]:.1e}; peak MB {dict(memory)}")
    document = {
        "benchmark": "metrics",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {jax.default_backend()}",
        "sizes": {
            "queries": {"image": _NUM_QUERIES, "text": 1000},
            "entries": arguments.entries,
            "resamples": arguments.resamples,
            "rounds": arguments.rounds,
        },
        "seconds_both_kinds": {name: round(value, 4) for name, value in both.items()},
        "compile_seconds": {kind: round(value, 3) for kind, value in compiling.items()},
        "ratios_to_ranking": {name: round(both[name] / both["ranking"], 3) for name in both},
        "target_seconds": _TARGET_SECONDS,
        "target_met": met,
        "largest_difference": difference[1],
        "num_means": difference[0],
        "peak_resident_megabytes": dict(memory),
        "seconds": {
            name: [{kind: round(s, 4) for kind, s in run.items()} for run in runs]
            for name, runs in times.items()
        },
        "versions": {
            "python": platform.python_version(),
            "jax": jax.__version__,
            "numpy": np.__version__,
            "scikit-learn": sklearn.__version__,
        },
    }
    print(json.dumps({name: value for name, value in document.items() if name != "seconds"}))
    arguments.output.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
