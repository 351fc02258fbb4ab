"""Times all scores of a search at ILIAS's size beside scikit-learn and plain numpy.

    python benchmarks/metrics.py [--entries 1000] [--resamples 10000] [--rounds 5]

1,232 image queries and 1,000 text queries, 1,000 objects, 4,715 positives, 100 million database
rows of which the rankings hold the best 1,000. Four ways score both kinds in turn, every round:

* ranking: `evaluate` of the two rankings, with all groups, categories and intervals;
* counts: `evaluate_counts` of what a search without lists returns, the same numbers to the bit;
* numpy: the same numbers from cumulative sums over the lists, and a bootstrap by `multinomial`;
* scikit-learn: `average_precision_score` of each query and group and the means, no intervals.

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
from sklearn.metrics import average_precision_score

from ilias_jax.ground_truth import GroundTruth
from ilias_jax.metrics import Metrics, evaluate, evaluate_counts
from ilias_jax.metrics.groups import Labels, make_labels
from ilias_jax.metrics.own_positives import own_positives
from ilias_jax.positive_counts import PositiveCounts
from ilias_jax.ranking import Ranking

_RESULTS = pathlib.Path(__file__).parent / "results" / "metrics.json"
_NUM_QUERIES, _NUM_DATABASE, _TARGET_SECONDS = 1232, 100_000_000, 1.0
Way = Callable[[Ranking, PositiveCounts], Mapping[str, Any]]


def make_ranking(
    rng: np.random.Generator, query_ids: tuple[str, ...], truth: GroundTruth, length: int
) -> Ranking:
    """Lists of distractors with most own positives at some rank, ties among the scores."""
    query, positive = own_positives(query_ids, truth)
    num_positives = len(truth.positive_ids)
    indices = np.empty((len(query_ids), length), np.int32)
    step = (_NUM_DATABASE - num_positives) // length
    for row, line in enumerate(indices):
        line[:] = num_positives + rng.permutation(length) * step + rng.integers(0, step, length)
        found = positive[query == row]
        found = found[rng.random(len(found)) < 0.7][:length]
        places = (rng.random(4 * len(found)) ** 3 * length).astype(int)
        line[np.unique(places)[: len(found)]] = found[: len(np.unique(places))]
    scores = rng.integers(0, 10**5, indices.shape).astype(np.float32) / 10**5
    return Ranking(query_ids, indices, -np.sort(-scores, axis=1))


def make_counts(ranking: Ranking, truth: GroundTruth) -> PositiveCounts:
    """What a search without lists would have returned; positives in no list get the lowest score."""
    query, positive = own_positives(ranking.query_ids, truth)
    length = ranking.indices.shape[1]
    found = ranking.indices[query] == positive[:, None]
    place = np.where(found.any(axis=1), found.argmax(axis=1), length)
    padded = np.pad(ranking.scores, ((0, 0), (0, 1)), constant_values=-1)
    score = padded[query, place]
    at_or_above = np.where(
        place < length, (padded[query] >= score[:, None]).sum(axis=1), length + 1
    )
    arrays = (array.astype(np.int32) for array in (at_or_above, place + 1))
    return PositiveCounts(ranking.query_ids, length, _NUM_DATABASE, query, positive, score, *arrays)


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


def plain(metrics: Metrics) -> dict[str, float]:
    """The means by the names of `means`."""
    sections = ("scale", "clutter", "categories", "subcategories")
    values = {f"{s}/{key}": v for s in sections for key, v in getattr(metrics, s).items()}
    return {"map/map": metrics.map, **values}


def peak_megabytes() -> int:
    """The most memory this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def seconds_of(way: Way, ranking: Ranking, counts: PositiveCounts) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    way(ranking, counts)
    return time.perf_counter() - start


def largest_difference(ways: Mapping[str, Way], cases: Mapping[str, Any]) -> tuple[int, float]:
    """How many means all ways gave, and by how much they differ at most."""
    differences = []
    for case in cases.values():
        ranked, counted, *others = (way(*case) for way in ways.values())
        assert ranked == counted, "evaluate and evaluate_counts differ"
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
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        truth = write_world(pathlib.Path(folder) / "world", rng, _NUM_QUERIES)
    cases = {}
    for kind, ids in (("image", truth.image_query_ids), ("text", truth.text_query_ids)):
        ranking = make_ranking(rng, ids, truth, k)
        cases[kind] = (ranking, make_counts(ranking, truth))
    ways: dict[str, Way] = {
        "ranking": lambda r, _: plain(evaluate(r, truth, k, _NUM_DATABASE, resamples)),
        "counts": lambda _, c: plain(evaluate_counts(c, truth, k, resamples)),
        "numpy": lambda r, _: with_numpy(r, truth, k, resamples),
        "scikit-learn": lambda r, _: with_sklearn(r, truth, k),
    }
    memory = {"before": peak_megabytes()}
    # Both forms are one program: counts find it compiled, wherever rankings were scored before.
    first = {kind: seconds_of(ways["ranking"], *case) for kind, case in cases.items()}
    memory["ours"] = peak_megabytes()
    number, difference = largest_difference(ways, cases)
    memory["all"] = peak_megabytes()
    times: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
    for _ in range(arguments.rounds):
        for name, way in ways.items():
            times[name].append({kind: seconds_of(way, *case) for kind, case in cases.items()})
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
    met = max(both["ranking"], both["counts"]) < _TARGET_SECONDS
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
