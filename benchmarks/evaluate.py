"""Times the evaluation of a similarity file against scikit-learn, query by query, group by group.

    python benchmarks/evaluate.py [--queries 1232] [--entries 1000] [--names 100000] [--rounds 3]

The file is JSON of the benchmark's own size: 1,232 lists of 1,000 entries with 100,000 different
names, 1,000 objects, 4,715 positives. Three things are timed in turn, and the medians compared:

* parsing: `parse_json` against the bare `json.load`, which does not notice repeated keys;
* evaluation: checks, AP of each query and group, means and bootstrap intervals, against
  `sklearn.metrics.average_precision_score` of each query and group and the means, without intervals
  and without checks. Both begin with what their parser gave;
* the whole command `ilias-jax evaluate`, a process of its own.

A table goes to the screen; the raw times go to benchmarks/results/evaluate.json.
"""

import argparse
import functools
import json
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import sklearn
from sklearn.metrics import average_precision_score

from ilias_jax.dataset.ground_truth import GroundTruth, object_of, read_ground_truth
from ilias_jax.metrics.groups import CLUTTER_BOUNDS, SCALE_BOUNDS
from ilias_jax.metrics.lists import SimilarityLists
from ilias_jax.metrics.scores import ListScores, score_lists
from ilias_jax.official.evaluate import check_lists
from ilias_jax.official.similarities import parse_json

_RESULTS = pathlib.Path(__file__).parent / "results" / "evaluate.json"
_NUM_OBJECTS, _NUM_POSITIVES = 1000, 4715
_K = 1000


def write_world(folder: pathlib.Path, rng: np.random.Generator, num_queries: int) -> GroundTruth:
    """Writes id files as large as the benchmark's and reads them."""
    objects = [f"object_{n:04d}" for n in range(_NUM_OBJECTS)]
    queries = [f"{objects[n % _NUM_OBJECTS]}/query/Q{n:04d}_00.jpg,own" for n in range(num_queries)]
    owners = np.append(np.arange(_NUM_OBJECTS), rng.integers(0, _NUM_OBJECTS, _NUM_POSITIVES))
    positives = [
        f"{objects[owner]}/pos/P{n:04d}_00.jpg,{rng.random() ** 2!r},{rng.integers(0, 90)}"
        for n, owner in enumerate(owners[:_NUM_POSITIVES])
    ]
    taxonomy: dict[str, Any] = {}
    for n, obj in enumerate(objects):
        mids = taxonomy.setdefault(f"coarse {n % 8}", {})
        mids.setdefault(f"mid {n % 48}", {}).setdefault("fine", []).append(obj)
    (folder / "image_ids").mkdir(parents=True)
    (folder / "misc").mkdir()
    texts = [f"{obj}/query/T000.txt" for obj in objects]
    for name, lines in (("image_query", queries), ("text_query", texts), ("positive", positives)):
        (folder / "image_ids" / f"{name}_ids.txt").write_text("\n".join(lines))
    (folder / "misc" / "taxonomy.json").write_text(json.dumps(taxonomy))
    return read_ground_truth(folder)


def write_lists(
    path: pathlib.Path,
    rng: np.random.Generator,
    truth: GroundTruth,
    num_entries: int,
    num_names: int,
) -> None:
    """Writes JSON as the official search does; most own positives are found at some rank."""
    num_distractors = num_names - len(truth.positive_ids)
    names = [f"yfcc_{n % 1000:04d}.tar/{n:08d}" for n in range(num_distractors)]
    own: dict[str, list[str]] = {}
    for positive in truth.positive_ids:
        own.setdefault(object_of(positive), []).append(positive)
    lists = {}
    for query in truth.image_query_ids:
        found = [name for name in own[object_of(query)] if rng.random() < 0.7]
        chosen = rng.choice(num_distractors, num_entries - len(found), replace=False)
        order = [names[n] for n in chosen]
        for name in found:
            order.insert(int(rng.random() ** 3 * len(order)), name)
        scores = -np.sort(-rng.random(num_entries, np.float32))
        lists[query] = dict(zip(order, scores.tolist(), strict=True))
    path.write_text(json.dumps(lists, indent=4))


def with_sklearn(lists: dict[str, dict[str, float]], truth: GroundTruth) -> dict[str, Any]:
    """The same means, one call of scikit-learn for each query and group."""
    info = dict(zip(truth.positive_ids, zip(truth.scale, truth.clutter, strict=True), strict=True))
    own: dict[str, set[str]] = {}
    for positive in truth.positive_ids:
        own.setdefault(object_of(positive), set()).add(positive)
    groups: dict[str, list[float]] = {}
    objects: dict[str, dict[str, list[float]]] = {}
    aps = []
    for query in sorted(truth.image_query_ids):
        positives = own[object_of(query)]
        names = np.array(list(lists[query]))
        scores = np.array(list(lists[query].values()))
        aps.append(100 * _ap(names, scores, positives, set()))
        coarse, mid, _ = truth.taxonomy[object_of(query)]
        for section in (coarse, f"{coarse}-{mid}"):
            objects.setdefault(section, {}).setdefault(object_of(query), []).append(aps[-1])
        for column, bounds in enumerate((SCALE_BOUNDS, CLUTTER_BOUNDS)):
            for low, high in zip(bounds[:-1], bounds[1:], strict=True):
                inside = {name for name in positives if low <= info[name][column] < high}
                if inside:
                    ap = _ap(names, scores, inside, positives - inside)
                    groups.setdefault(f"{low}-{high}", []).append(100 * ap)
    sections = {
        name: np.mean([np.mean(values) for values in found.values()])
        for name, found in objects.items()
    }
    return {"map": np.mean(aps), **{key: np.mean(v) for key, v in groups.items()}, **sections}


def _ap(names: np.ndarray, scores: np.ndarray, wanted: set[str], removed: set[str]) -> float:
    kept = ~np.isin(names, list(removed)) if removed else np.ones(len(names), bool)
    names, scores = names[kept], scores[kept]
    order = np.argsort(-scores)[:_K]
    hit = np.isin(names[order], list(wanted))
    if not hit.any():
        return 0.0
    return average_precision_score(hit, scores[order]) * hit.sum() / min(_K, len(wanted))


def ours(data: SimilarityLists, truth: GroundTruth) -> ListScores:
    """Checks and all numbers, intervals included."""
    return score_lists(check_lists(data, truth, _K)[0]["image"], truth, _K)


def _load(path: pathlib.Path) -> dict[str, dict[str, float]]:
    return json.loads(path.read_bytes())


def _parse(path: pathlib.Path) -> SimilarityLists:
    return parse_json(path.read_bytes(), str(path))


def timed(work: Callable[[], Any], times: list[float]) -> Any:
    """Runs it once and notes how long it took."""
    start = time.perf_counter()
    result = work()
    times.append(time.perf_counter() - start)
    return result


def main() -> None:
    """Prints the table and writes the raw times."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for name, default in (("queries", 1232), ("entries", 1000), ("names", 100_000), ("rounds", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    times: dict[str, list[float]] = {
        name: [] for name in ("json.load", "parse", "sklearn", "evaluate", "command")
    }
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name) / "world"
        truth = write_world(folder, rng, arguments.queries)
        path = pathlib.Path(name) / "similarities.json"
        write_lists(path, rng, truth, arguments.entries, arguments.names)
        words = ["evaluate", "--similarities", str(path), "--ids", str(folder)]
        command = [sys.executable, "-m", "ilias_jax.cli", *words]
        size = path.stat().st_size
        quiet = functools.partial(subprocess.run, check=True, stdout=subprocess.DEVNULL)
        for _ in range(arguments.rounds):
            bare = timed(functools.partial(_load, path), times["json.load"])
            wanted = timed(functools.partial(with_sklearn, bare, truth), times["sklearn"])
            del bare
            lists = timed(functools.partial(_parse, path), times["parse"])
            found = timed(functools.partial(ours, lists, truth), times["evaluate"])
            del lists
            timed(functools.partial(quiet, command), times["command"])
    report = found.metrics
    numbers = {"map": report.map, **report.scale, **report.clutter}
    numbers |= {**report.categories, **report.subcategories}
    difference = max(abs(numbers[key] - wanted[key]) for key in wanted)
    medians = {name: statistics.median(seconds) for name, seconds in times.items()}
    for name, seconds in medians.items():
        print(f"{name:<10} {seconds:8.3f} s")
    summary = {
        "benchmark": "evaluate",
        "seconds": {name: [round(s, 4) for s in seconds] for name, seconds in times.items()},
        "evaluate_over_sklearn": round(medians["evaluate"] / medians["sklearn"], 4),
        "parse_over_json_load": round(medians["parse"] / medians["json.load"], 3),
        "largest_difference": difference,
        "num_numbers": len(wanted),
        "file_bytes": size,
        **vars(arguments),
        "versions": {
            "python": platform.python_version(),
            "numpy": np.__version__,
            "scikit-learn": sklearn.__version__,
        },
    }
    print(
        f"evaluate / sklearn {summary['evaluate_over_sklearn']}, parse / json.load "
        f"{summary['parse_over_json_load']}, {len(wanted)} numbers differ "
        f"by at most {difference:.1e}"
    )
    _RESULTS.write_text(json.dumps(summary, indent=1) + "\n")


if __name__ == "__main__":
    main()
