"""Times ScaNN's index against exact search, and measures what it misses.

    python benchmarks/scann.py [--rows 1048576] [--dim 512] [--queries 2232] [--k 1000]
        [--leaves 20 35 50 70 100] [--part_gb 1.0] [--rounds 3] [--folder DIR]

The database is clustered, as embeddings of pictures are, and no white noise: 2,048 clusters whose
sizes are log-normal (the largest holds some 50 times as many rows as the median) stand around 128
topics. Topics, clusters within a topic and rows within a cluster are Gaussian with lengths 0.6, 0.6
and 0.5, and the variance of the n-th principal channel falls as 1/n; a random rotation then mixes
all channels, and rows are normalised. A query is a row moved by a Gaussian of length 0.4.

Two indexes are built, each in a process of its own whose peak resident memory is measured: one in
a single part, and one under a budget of `--part_gb` (10**9 bytes). Then exact search, the bare
product of all queries with all rows (in blocks, with a maximum over groups of 32, as XLA fuses it)
and both indexes at several numbers of leaves to search are timed in turn. ANN recall@k is against
exact search; queries per second are of the median time, scores of the candidates included. A table
goes to the screen; the raw times go to benchmarks/results/scann.json.
"""

import argparse
import functools
import importlib
import json
import pathlib
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from ilias_jax.config import ScannConfig
from ilias_jax.mesh import make_mesh
from ilias_jax.report.manifest import machine
from ilias_jax.search.exact import ExactSearch
from ilias_jax.search.pipeline import ann_recall
from ilias_jax.search.scann import ScannIndex, ScannSearch, part_bytes
from ilias_jax.search.topk import best_of_lists

_RESULTS = pathlib.Path(__file__).parent / "results" / "scann.json"
_BLOCK_ROWS = 16384
_UNLIMITED_GB = 1000.0


class Rows:
    """A file of float32 rows as a source of vectors; read in blocks, or held in memory."""

    def __init__(self, path: pathlib.Path, dim: int, in_memory: bool) -> None:
        self._path, self._dim, self._in_memory = path, dim, in_memory
        self._count = path.stat().st_size // (4 * dim)
        if in_memory:
            self.array = self._read(0, self._count)

    def _read(self, start: int, count: int) -> np.ndarray:
        offset = 4 * self._dim * start
        values = np.fromfile(self._path, np.float32, count * self._dim, offset=offset)
        return values.reshape(-1, self._dim)

    def num_rows(self) -> int:
        """N."""
        return self._count

    def ids(self) -> list[str]:
        """The numbers of the rows."""
        return list(map(str, range(self._count)))

    def vectors(self) -> np.ndarray:
        """All rows at once, [N, D] float32."""
        return self.array if self._in_memory else self._read(0, self._count)

    def rows(self, indices: np.ndarray) -> np.ndarray:
        """The rows of indices [...], as [..., D] float32."""
        if self._in_memory:
            return self.array.take(indices, axis=0)
        flat = np.ravel(indices)
        if len(flat) == flat[-1] - flat[0] + 1:  # neighbours, as an index asks for its parts
            return self._read(int(flat[0]), len(flat)).reshape(*np.shape(indices), -1)
        return np.stack([self._read(int(i), 1)[0] for i in np.ravel(indices)])

    def blocks(self, num_rows: int) -> Iterator[np.ndarray]:
        """Yields all rows in order as blocks [num_rows, D]; the last one may be shorter."""
        for start in range(0, self._count, num_rows):
            if self._in_memory:
                yield self.array[start : start + num_rows]
            else:
                yield self._read(start, min(num_rows, self._count - start))

    def place_of(self, row: int) -> str:
        """Where a row is."""
        return f"{self._path} row {row}"


def write_clustered(
    path: pathlib.Path, num_rows: int, dim: int, num_queries: int, seed: int
) -> np.ndarray:
    """Writes the rows as the docstring of this file says, and returns queries [Q, D] float32."""
    rng = np.random.default_rng(seed)
    num_clusters, num_topics = min(2048, max(1, num_rows // 64)), 128
    falling = (1 + np.arange(dim, dtype=np.float32)) ** -0.5
    falling /= np.linalg.norm(falling)
    rotation = np.linalg.qr(rng.normal(size=(dim, dim)))[0].astype(np.float32)

    def gaussian(count: int, length: float) -> np.ndarray:
        return length * rng.standard_normal((count, dim), np.float32) * falling

    topics = gaussian(num_topics, 0.6)
    clusters = topics[rng.integers(num_topics, size=num_clusters)] + gaussian(num_clusters, 0.6)
    sizes = rng.lognormal(0, 1, num_clusters)
    chosen = np.sort(rng.choice(num_rows, num_queries, replace=False))
    queries = []
    with path.open("wb") as file:
        for start in range(0, num_rows, _BLOCK_ROWS):
            count = min(_BLOCK_ROWS, num_rows - start)
            members = rng.choice(num_clusters, count, p=sizes / sizes.sum())
            rows = _normalised((clusters[members] + gaussian(count, 0.5)) @ rotation)
            file.write(rows.tobytes())
            here = chosen[(chosen >= start) & (chosen < start + count)] - start
            queries.append(_normalised(rows[here] + gaussian(len(here), 0.4) @ rotation))
    return np.concatenate(queries)


def _normalised(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def open_index(path: pathlib.Path, k: int, gigabytes: float, rows: Rows) -> ScannIndex:
    """The index of a file under a budget, beside the file; built if it is not there."""
    folder = epath.Path(path.parent) / "index"
    return ScannSearch(ScannConfig(memory_gb=gigabytes), folder, path.name).open(rows, k)


def search_leaves(
    index: ScannIndex, queries: np.ndarray, visited: int
) -> tuple[np.ndarray, np.ndarray]:
    """Scores and rows [Q, k] of so many leaves of every part; -inf and -1 behind a shorter list."""
    rows = index.candidates(queries, visited)
    short = max(0, index.k - rows.shape[1])
    rows = np.pad(rows, ((0, 0), (0, short)), constant_values=-1)
    return best_of_lists(queries, rows, index.database, index.k)


def build(path: pathlib.Path, dim: int, k: int, gigabytes: float) -> dict[str, float]:
    """Builds an index; what it took."""
    rows = Rows(path, dim, in_memory=False)
    importlib.import_module("scann.scann_ops.py.scann_ops_pybind")  # counts as there before
    before, start = _status_gb("VmRSS"), time.perf_counter()
    index = open_index(path, k, gigabytes, rows)
    # Not getrusage: a new process begins with the peak of the one that started it.
    peak = _status_gb("VmHWM")
    longest = -(-rows.num_rows() // index.plan.num_parts)
    estimate = part_bytes(ScannConfig(memory_gb=gigabytes), longest, dim)
    return {
        "seconds": round(time.perf_counter() - start, 1),
        "peak_gb": round(peak, 3),
        "added_gb": round(peak - before, 3),
        "estimated_gb": round(estimate / 1e9, 3),
        **index.facts(),
    }


def _status_gb(name: str) -> float:
    """Memory of this process as Linux tells it, in 10**9 bytes."""
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    values = dict(line.split(":") for line in lines)
    return int(values[name].split()[0]) * 1024 / 1e9


@jax.jit
def _product(queries: jax.Array, block: jax.Array) -> jax.Array:
    """Maxima of the scores over groups; queries [D, Q], the fastest on CPUs."""
    scores = jnp.einsum("dq,rd->qr", queries, block)
    return scores.reshape(queries.shape[1], -1, 32).max(axis=2)


def bare_product(rows: Rows, queries: np.ndarray) -> None:
    """All queries with all rows; what no exact search goes below."""
    on_device = jnp.asarray(queries.T)
    for block in rows.blocks(_BLOCK_ROWS):
        if len(block) % 32 == 0:
            jax.block_until_ready(_product(on_device, block))


def main() -> None:
    """Prints the table and writes the raw times."""
    arguments = _arguments()
    if arguments.build:
        path, size = pathlib.Path(arguments.build), (arguments.dim, arguments.k)
        print(json.dumps(build(path, *size, arguments.part_gb)))
        return
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        summary = measure(arguments, pathlib.Path(name) / "rows.f32")
    _RESULTS.parent.mkdir(exist_ok=True)
    if not arguments.no_result:
        _RESULTS.write_text(json.dumps(summary, indent=1) + "\n")
    print(json.dumps(summary))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    sizes = {"rows": 1_048_576, "dim": 512, "queries": 2232, "k": 1000, "rounds": 3, "seed": 0}
    for name, default in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--leaves", type=int, nargs="+", default=[20, 35, 50, 70, 100])
    parser.add_argument("--part_gb", type=float, default=1.0, help="budget of the index in parts")
    parser.add_argument("--folder", help="for temporary files, twice the size of the rows")
    parser.add_argument("--no_result", action="store_true", help="do not write the results file")
    parser.add_argument("--build", help=argparse.SUPPRESS)
    return parser.parse_args()


def measure(arguments: argparse.Namespace, path: pathlib.Path) -> dict[str, Any]:
    """Builds, times in turn, prints the table."""
    size = (arguments.rows, arguments.dim, arguments.queries, arguments.seed)
    queries, k = write_clustered(path, *size), arguments.k
    budgets = {"one": _UNLIMITED_GB, "parts": arguments.part_gb}
    builds = {name: _build_apart(arguments, path, budget) for name, budget in budgets.items()}
    rows = Rows(path, arguments.dim, in_memory=True)
    exact = ExactSearch(make_mesh(), _BLOCK_ROWS).open(rows, k)
    work: dict[str, Callable[[], Any]] = {
        "exact": functools.partial(exact.search, queries),
        "bare product": functools.partial(bare_product, rows, queries),
    }
    for name, budget in budgets.items():
        index = open_index(path, k, budget, rows)
        for leaves in arguments.leaves:
            visited = min(leaves, index.plan.num_leaves)
            label = f"{name}, {visited} of {index.plan.num_leaves} leaves"
            work[label] = functools.partial(search_leaves, index, queries, visited)
    times, found = _in_turn(work, arguments.rounds)
    return _report(arguments, builds, times, found)


def _build_apart(arguments: argparse.Namespace, path: pathlib.Path, budget: float) -> Any:
    words = ["--build", str(path), "--part_gb", str(budget)]
    words += ["--dim", str(arguments.dim), "--k", str(arguments.k)]
    command = [sys.executable, __file__, *words]
    run = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(run.stdout.splitlines()[-1])


def _in_turn(
    work: dict[str, Callable[[], Any]], rounds: int
) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """Seconds of every round, and what the last one found; the first round warms up."""
    times: dict[str, list[float]] = {name: [] for name in work}
    found = {}
    for number in range(rounds + 1):
        for name, call in work.items():
            start = time.perf_counter()
            found[name] = call()
            if number:
                times[name].append(time.perf_counter() - start)
    return times, found


def _report(
    arguments: argparse.Namespace,
    builds: dict[str, Any],
    times: dict[str, list[float]],
    found: dict[str, Any],
) -> dict[str, Any]:
    rates = {name: arguments.queries / statistics.median(t) for name, t in times.items()}
    lines = {}
    for name, built in builds.items():
        print(f"index, {name}: {json.dumps(built)}")
    print(f"{'':<32} {'queries/s':>10} {'of exact':>9} {'ANN recall@' + str(arguments.k):>16}")
    for name, rate in rates.items():
        recall = ann_recall(found["exact"][1], found[name][1]) if found[name] else None
        lines[name] = {
            "queries_per_s": round(rate, 1),
            "times_exact": round(rate / rates["exact"], 2),
            "ann_recall": None if recall is None else round(recall, 4),
        }
        shown = "" if recall is None else f"{recall:.4f}"
        print(f"{name:<32} {rate:>10.1f} {rate / rates['exact']:>9.2f} {shown:>16}")
    return {
        "benchmark": "scann",
        **{key: value for key, value in vars(arguments).items() if key not in ("build", "folder")},
        "indexes": builds,
        "results": lines,
        "seconds": {name: [round(s, 4) for s in t] for name, t in times.items()},
        "peak_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9, 2),
        "machine": machine(),
    }


if __name__ == "__main__":
    # The folder of this file stands first, and here is a scann.py that is not the library.
    here = pathlib.Path(__file__).parent.resolve()
    sys.path = [folder for folder in sys.path if pathlib.Path(folder).resolve() != here]
    main()
