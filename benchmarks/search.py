"""Prints the time of exact search beside faiss and beside the bare matrix product.

    pip install -e ".[faiss]"
    python benchmarks/search.py                      # in memory: ours, faiss, bare products
    python benchmarks/search.py --files /big/disk    # from files: time and memory by size

In memory: `--rows` float32 unit vectors and `--queries` queries. Every way runs once a round, in
turn; the table has medians and ratios of medians. *ranking* is `ExactIndex.search`, with the whole
database as one window. The bare products are one XLA program a block of as many rows as the search
takes at once: the product and its maximum over groups of 32 rows. faiss returns lists only. Where
torch is installed, its product and `topk` of every block run too, on a GPU with the database in its
memory as float16; where faiss has GPUs, so does `faiss.knn_gpu`.

From files: embedding files of float16 with `--small` and with `--large` rows are made in a
temporary folder; each way runs in a process of its own, which reports its time (compiling left out)
and its peak resident memory.

The vectors: an image model's scores are not those of white noise. Rows are unit vectors around a
few thousand centres; a query is the centre of five positives at distances from near to far, so that
some are found first and some never.
"""

import argparse
import functools
import importlib.util
import json
import os
import pathlib
import platform
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

from ilias_jax.embeddings import file
from ilias_jax.embeddings.files import EmbeddingFiles
from ilias_jax.mesh import make_mesh
from ilias_jax.search import exact
from ilias_jax.search.exact import ExactSearch
from ilias_jax.search.filter import Product

_RESULTS = pathlib.Path(__file__).parent / "results"
_SHARD = 100_000  # rows of a file, as in ILIAS
_POSITIVES = 5  # of a query
_GROUP = 32
_TORCH_ROWS = 65_536  # of a block that torch multiplies
Way = Callable[[], object]


def unit(vectors: np.ndarray) -> np.ndarray:
    """Rows divided by their length."""
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def make_queries(count: int, dim: int) -> np.ndarray:
    """[Q, D] float32 unit vectors."""
    return unit(np.random.default_rng(1).standard_normal((count, dim), np.float32))


def make_positives(queries: np.ndarray) -> np.ndarray:
    """[Q * 5, D] float32 unit vectors with cosines of about 0.1 to 0.9 to their query."""
    rng = np.random.default_rng(2)
    cosine = rng.uniform(0.1, 0.9, (len(queries) * _POSITIVES, 1)).astype(np.float32)
    noise = unit(rng.standard_normal((len(cosine), queries.shape[1]), np.float32))
    return unit(cosine * np.repeat(queries, _POSITIVES, 0) + np.sqrt(1 - cosine**2) * noise)


def make_shards(queries: np.ndarray, num_rows: int) -> Iterator[np.ndarray]:
    """Yields the database as [n, D] float32 unit vectors: positives, then distractors."""
    dim = queries.shape[1]
    centres = unit(np.random.default_rng(3).standard_normal((4096, dim), np.float32))
    rest, number = make_positives(queries)[:num_rows], 0
    while num_rows:
        if not len(rest):
            rng = np.random.default_rng((4, number))
            chosen = centres[rng.integers(0, len(centres), _SHARD)]
            noise = rng.standard_normal((_SHARD, dim), np.float32) / np.sqrt(dim)
            rest, number = unit(0.6 * chosen + 0.8 * noise.astype(np.float32)), number + 1
        yield (part := rest[:num_rows])
        num_rows -= len(part)
        rest = rest[:0]


class Memory:
    """An array as a source of vectors."""

    def __init__(self, array: np.ndarray) -> None:
        self._array = array

    def num_rows(self) -> int:
        """N."""
        return len(self._array)

    def ids(self) -> list[str]:
        """All ids."""
        return [str(row) for row in range(len(self._array))]

    def vectors(self) -> np.ndarray:
        """All rows."""
        return self._array

    def rows(self, indices: np.ndarray) -> np.ndarray:
        """Some rows."""
        return self._array[indices]

    def blocks(self, num_rows: int) -> Iterator[np.ndarray]:
        """Views of neighbouring rows."""
        for start in range(0, len(self._array), num_rows):
            yield self._array[start : start + num_rows]

    def place_of(self, row: int) -> str:
        """The row's number."""
        return f"row {row}"


@functools.partial(jax.jit, static_argnames="dtype")
def _product(queries: jax.Array, block: jax.Array, dtype: str) -> jax.Array:
    """The product of a block and its maxima over groups; queries [D, Q], the fastest on CPUs."""
    scores = jnp.einsum(
        "dq,rd->qr",
        queries.astype(dtype),
        block.astype(dtype),
        precision=jax.lax.Precision.HIGHEST,
        preferred_element_type=jnp.float32,
    )
    return scores.reshape(queries.shape[1], -1, _GROUP).max(axis=2)


def bare_product(queries: np.ndarray, database: np.ndarray, block_rows: int, dtype: str) -> None:
    """All blocks through the bare product; every block waits for the one before."""
    on_device = jax.device_put(np.ascontiguousarray(queries.T))
    for start in range(0, len(database) - block_rows + 1, block_rows):
        block = jax.device_put(database[start : start + block_rows])
        jax.block_until_ready(_product(on_device, block, dtype))


def torch_peer(queries: np.ndarray, database: np.ndarray, k: int) -> Way | None:
    """Product and `topk` of every block, merged into the best so far; None without torch."""
    if importlib.util.find_spec("torch") is None:
        return None
    import torch

    on_gpu = torch.cuda.is_available()
    kind = {"device": "cuda", "dtype": torch.float16} if on_gpu else {"dtype": torch.float32}
    asked, rows = (torch.from_numpy(array).to(**kind) for array in (queries, database))

    @torch.inference_mode()
    def search() -> tuple[np.ndarray, np.ndarray]:
        best, place = asked.new_zeros((len(asked), 0)), None
        for start in range(0, len(rows), _TORCH_ROWS):
            scores = asked @ rows[start : start + _TORCH_ROWS].T
            found, index = scores.topk(min(k, scores.shape[1]))
            index += start
            place = index if place is None else torch.cat([place, index], dim=1)
            best, kept = torch.cat([best, found], dim=1).topk(
                min(k, best.shape[1] + found.shape[1])
            )
            place = place.gather(1, kept)
        assert place is not None
        return best.float().cpu().numpy(), place.cpu().numpy()

    return search


def faiss_gpu_peer(queries: np.ndarray, database: np.ndarray, k: int) -> Way | None:
    """`faiss.knn_gpu`, the database in the host's memory; None without GPUs in faiss."""
    import faiss

    if not getattr(faiss, "get_num_gpus", lambda: 0)():
        return None
    resources = faiss.StandardGpuResources()
    metric = faiss.METRIC_INNER_PRODUCT
    return functools.partial(faiss.knn_gpu, resources, queries, database, k, metric=metric)


def in_memory(arguments: argparse.Namespace) -> dict[str, object]:
    """Times all ways over one array; checks that lists agree with faiss."""
    import faiss

    queries = make_queries(arguments.queries, arguments.dim)
    database = np.concatenate(list(make_shards(queries, arguments.rows)))
    mesh = make_mesh()
    exact.WINDOW_BYTES = database.nbytes  # rows that are in memory anyway
    index = ExactSearch(mesh, arguments.block_rows).open(Memory(database), arguments.k)
    block_rows = Product.open(mesh, arguments.block_rows, queries, "float32").rows_at_once
    bare = functools.partial(bare_product, queries, database, block_rows)
    knn = functools.partial(faiss.knn, queries, database, arguments.k)
    ways: dict[str, Way] = {
        "ranking": functools.partial(index.search, queries),
        "faiss.knn": functools.partial(knn, metric=faiss.METRIC_INNER_PRODUCT),
        "bare float32 product": functools.partial(bare, "float32"),
        "bare bfloat16 product": functools.partial(bare, "bfloat16"),
    }
    for name, peer in (("torch matmul + topk", torch_peer), ("faiss.knn_gpu", faiss_gpu_peer)):
        if (way := peer(queries, database, arguments.k)) is not None:
            ways[name] = way
    times: dict[str, list[float]] = {name: [] for name in ways}
    results: dict[str, Any] = {}
    for name, way in ways.items():  # compiles, and warms up what the libraries keep
        results[name] = way()
        print(f"{name}: ready", file=sys.stderr)
    for _ in range(arguments.rounds):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            times[name].append(time.perf_counter() - start)
            print(f"{name}: {times[name][-1]:.2f} s", file=sys.stderr)
    found = {"seconds": times, "rows_at_once": block_rows}
    return {**found, **agreement(results)}


def agreement(results: dict[str, Any]) -> dict[str, object]:
    """How the lists agree with those of faiss."""
    (scores, rows), (peer_scores, peer_rows) = results["ranking"], results["faiss.knn"]
    same = [len(np.intersect1d(a, b)) for a, b in zip(rows, peer_rows, strict=True)]
    return {
        "largest_score_difference_to_faiss": float(np.abs(scores - peer_scores).max()),
        "share_of_rows_in_faiss_lists": float(np.mean(same)) / rows.shape[1],
    }


def write_files(folder: pathlib.Path, queries: np.ndarray, num_rows: int) -> None:
    """The database as float16 embedding files."""
    folder.mkdir()
    for number, vectors in enumerate(make_shards(queries, num_rows)):
        ids = tuple(f"{number}/{row}" for row in range(len(vectors)))
        part = file.Embeddings(ids, vectors.astype(np.float16), np.arange(len(ids)), {})
        file.write(epath.Path(folder) / f"{number:05d}.safetensors", part)


def child(arguments: argparse.Namespace) -> None:
    """Searches one folder: prints seconds and peak resident bytes."""
    queries = make_queries(arguments.queries, arguments.dim)
    files = sorted(epath.Path(arguments.child).glob("*.safetensors"))
    search = ExactSearch(make_mesh(), arguments.block_rows)
    for paths in (files[:1], files):  # the first, smaller, compiles
        index = search.open(EmbeddingFiles(paths), arguments.k)
        start = time.perf_counter()
        index.search(queries)
        seconds = time.perf_counter() - start
    print(json.dumps({"seconds": seconds, "peak_bytes": peak_bytes()}))


def peak_bytes() -> int:
    """Peak resident memory of this process; what `getrusage` says begins with its parent's."""
    status = pathlib.Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return int(status.read_text().partition("VmHWM:")[2].split()[0]) * 1024


def from_files(arguments: argparse.Namespace) -> dict[str, object]:
    """Times two sizes, each run in a new process, in turn."""
    queries = make_queries(arguments.queries, arguments.dim)
    found: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory(dir=arguments.files) as name:
        for size in (arguments.small, arguments.large):
            write_files(pathlib.Path(name) / str(size), queries, size)
        settings = [f"--{key}={getattr(arguments, key)}" for key in ("queries", "dim", "k")]
        settings.append(f"--block_rows={arguments.block_rows}")
        for _ in range(arguments.rounds):
            for size in (arguments.small, arguments.large):
                command = [sys.executable, __file__, "--child", f"{name}/{size}", *settings]
                output = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
                measured = found.setdefault(f"ranking, {size:,} rows", {})
                for key, value in json.loads(output.splitlines()[-1]).items():  # after the progress
                    measured.setdefault(key, []).append(value)
                print(f"ranking {size:,}: {output.decode().strip()}", file=sys.stderr)
    return {"files": found}


def report_memory(document: dict[str, object]) -> None:
    """Prints times by size and their growth."""
    files = document["files"]
    assert isinstance(files, dict)
    print(
        f"{'from files, float16':<34}{'s per million rows':>20}{'of the small':>14}{'peak GB':>9}"
    )
    first = 0.0
    for name, measured in files.items():
        size = int(name.removeprefix("ranking, ").removesuffix(" rows").replace(",", ""))
        speed = statistics.median(measured["seconds"]) / size * 1e6
        first, peak = first or speed, max(measured["peak_bytes"]) / 1e9
        print(f"{name:<34}{speed:>20.2f}{speed / first:>14.3f}{peak:>9.2f}")


def report_times(document: dict[str, object]) -> None:
    """Prints medians and ratios."""
    times = document["seconds"]
    assert isinstance(times, dict)
    median = {name: statistics.median(values) for name, values in times.items()}
    peers = [name for name in median if name != "ranking"]
    print(f"{'':<24}{'seconds':>9}" + "".join(f"{'of ' + peer:>26}" for peer in peers))
    for name, value in median.items():
        ratios = "".join(f"{value / median[peer]:>26.3f}" for peer in peers)
        print(f"{name:<24}{value:>9.2f}{ratios}")


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    numbers = {
        "rows": 1_048_576,
        "queries": 2232,
        "dim": 512,
        "k": 1000,
        "block_rows": 16384,
        "rounds": 3,
        "small": 1_000_000,
        "large": 5_000_000,
    }
    for name, default in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--files", help="a folder for embedding files of small + large rows")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments)
        return
    document: dict[str, object] = {
        "benchmark": "search",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {jax.devices()[0].device_kind}",
        "versions": {"python": platform.python_version(), "jax": jax.__version__},
        **{name: getattr(arguments, name) for name in numbers},
    }
    document |= from_files(arguments) if arguments.files else in_memory(arguments)
    if arguments.files:
        report_memory(document)
    else:
        report_times(document)
    document["peak_bytes"] = peak_bytes()
    print(json.dumps(document))
    name = "search_files.json" if arguments.files else "search.json"
    (_RESULTS / name).write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
