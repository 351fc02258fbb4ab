"""Prints pairs per second of re-ranking with local descriptors, beside the authors' code in torch.

    pip install torch
    python benchmarks/rerank.py --upstream FOLDER [--rounds 5] [--cores 2]

FOLDER has checkouts of github.com/pavelsuma/ames and github.com/pavelsuma/ELViS, named OWNER+NAME.
One query is scored against images that all have as many descriptors as the case says, in float32.
Both ways run in processes of their own that stay alive, and take turns; loading and compiling are
over before the first round, in which the peer also finds its best batch. The table has medians of
wall time and their ratio; on a machine with other work, processor seconds per pair are the steadier
ratio. Weights and descriptors are random.

The peer gets a network's descriptors of 768 channels, and maps them to 128 for every pair, as its
evaluation does; that is 2 to 4 percent of its operations. Ours gets what is stored, after the map.

Utilisation is the operations of our matrix products over the rate of the bare product [Q + 1 + T,
128] x [128, 1024] in the same run.
"""

import argparse
import functools
import importlib
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

_RESULTS = pathlib.Path(__file__).parent / "results" / "rerank.json"
_DIM, _HIDDEN, _DEPTH, _INPUT_DIM, _ROUNDS = 128, 1024, 5, 768, 10
_BATCHES = (1, 2, 10, 25, 50)  # pairs that the peer gets at a time
_PRODUCTS = 16  # timed together
_WAYS = ("ours", "torch")


class Case(NamedTuple):
    """A method, descriptors of a query and of an image, and pairs of a round."""

    method: str
    query: int
    image: int
    pairs: int
    target: float  # times the peer's pairs per second

    @property
    def flops(self) -> float:
        """Operations of a pair in our matrix products."""
        q, t = self.query, self.image
        if self.method == "elvis":  # similarities, gains of the image, and Sinkhorn's rounds
            return 2.0 * q * t * _DIM + 2 * t * _DIM**2 + _ROUNDS * 4 * q * t
        length = q + 1 + t
        dense = 2.0 * 4 * _DIM**2  # queries, keys, values and output of a token
        inside, between = 4.0 * _DIM * (q**2 + t**2), 8.0 * _DIM * q * t
        mlp = 4.0 * _DIM * _HIDDEN
        first = (1 + t) * dense + 4.0 * _DIM * t**2
        middle = length * (2 * dense + mlp) + inside + between
        return first + (_DEPTH - 1) * middle


CASES = {
    "ames_100": Case("ames", 100, 100, 100, 1.5),
    "ames_600": Case("ames", 600, 600, 10, 1.5),
    "elvis_600": Case("elvis", 600, 600, 50, 1.0),
}


def ours(case: Case) -> tuple[Callable[[], Any], dict[str, Callable[[], Any]]]:
    """Scores all pairs; and the bare product."""
    import jax

    from ilias_jax.config import RerankConfig
    from ilias_jax.mesh import make_mesh
    from ilias_jax.rerank import ames, elvis
    from ilias_jax.rerank.descriptors import Descriptors
    from ilias_jax.rerank.layers import Remap
    from ilias_jax.rerank.reranker import RERANKERS

    rng = np.random.default_rng(0)
    shapes = {"ames": ames.shapes, "elvis": elvis.shapes}[case.method](Remap(False, _INPUT_DIM))
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/weights.npz"
        arrays: dict[str, Any] = {
            name: 0.05 * rng.normal(size=shape) for name, shape in shapes.items()
        }
        np.savez(path, **arrays)
        config = RerankConfig(
            method=case.method,
            weights=path,
            query_descriptors=case.query,
            database_descriptors=case.image,
        )
        method = RERANKERS[case.method].create(config, make_mesh())

    def draw(images: int, count: int, dtype: str) -> Descriptors:
        values = rng.normal(size=(images, count, _DIM)).astype(np.float32)
        values /= np.linalg.norm(values, axis=-1, keepdims=True)
        places = np.zeros((images, count, 2), np.float32)
        counts = np.full(images, count, np.int32)
        return Descriptors(values.astype(dtype), places, places[..., 0], counts)

    query = draw(1, case.query, "float32")
    images = draw(case.pairs, case.image, "float16")
    indices = np.arange(case.pairs)[None]
    similarities = np.zeros(indices.shape, np.float32)
    x = jax.numpy.ones((case.query + 1 + case.image, _DIM))
    w = jax.numpy.ones((_DIM, _HIDDEN))
    product = jax.jit(functools.partial(jax.numpy.matmul, precision="highest"))

    def bare() -> dict[str, float]:
        start = time.perf_counter()
        jax.block_until_ready([product(x, w) for _ in range(_PRODUCTS)])
        seconds = time.perf_counter() - start
        return {"flops_per_second": 2.0 * x.size * _HIDDEN * _PRODUCTS / seconds}

    about = {"device": jax.devices()[0].device_kind, "versions": {"jax": jax.__version__}}
    score = functools.partial(method.score, query, images, indices, similarities)
    return score, {"bare": bare, "about": lambda: about}


def peer(
    case: Case, upstream: pathlib.Path, cores: int
) -> tuple[Callable[[], Any], dict[str, Callable[[], Any]]]:
    """The authors' network in batches of pairs, the best of some sizes."""
    import torch

    torch.set_num_threads(cores)
    torch.manual_seed(0)
    if case.method == "ames":
        sys.path.insert(0, str(upstream / "pavelsuma+ames/src"))
        network = importlib.import_module("models.matcher").AMES
        sizes = {"model_dim": _DIM, "nhead": 2, "dim_feedforward": _HIDDEN}
        form = {"activation": "relu", "normalize_before": False, "binarized": False}
        model = network("", _INPUT_DIM, num_encoder_layers=_DEPTH, **sizes, **form)
    else:
        sys.path.insert(0, str(upstream / "pavelsuma+ELViS"))
        network = importlib.import_module("elvis.models.elvis").Elvis
        model = network("dinov2", _INPUT_DIM, binarized=False)
    model.eval()

    def sides(pairs: int) -> list[torch.Tensor]:
        counts = (case.query, case.image)
        values = [torch.randn(pairs, count, _INPUT_DIM) for count in counts]
        masks = [torch.zeros(pairs, count, dtype=torch.bool) for count in counts]
        normal = [torch.nn.functional.normalize(each, dim=-1) for each in values]
        return [normal[0], masks[0], normal[1], masks[1]]

    inputs = sides(case.pairs)
    batch = 1

    @torch.inference_mode()
    def score() -> np.ndarray:
        parts = [[each[i : i + batch] for each in inputs] for i in range(0, case.pairs, batch)]
        return torch.cat([model(*part) for part in parts]).numpy()

    def best() -> dict[str, Any]:
        nonlocal batch
        seconds = {}
        for batch in [each for each in _BATCHES if each <= case.pairs]:
            score()
            start = time.perf_counter()
            score()
            seconds[batch] = time.perf_counter() - start
        batch = min(seconds, key=lambda each: seconds[each])
        about = {"torch": torch.__version__}
        return {"batch": batch, "seconds_by_batch": seconds, "versions": about}

    return score, {"about": best}


def serve(arguments: argparse.Namespace) -> None:
    """Answers one line of JSON for every word: `round`, `about` or `bare`."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # so that nothing else can be taken for an answer
    case = CASES[arguments.case]
    if arguments.child == "ours":
        score, more = ours(case)
    else:
        score, more = peer(case, arguments.upstream, arguments.cores)
    for word in map(str.strip, sys.stdin):
        answer = more[word]() if word in more else timed(score)
        print(json.dumps(answer), file=answers, flush=True)


def timed(score: Callable[[], Any]) -> dict[str, float]:
    """Wall and processor seconds of all pairs."""
    start, used = time.perf_counter(), time.process_time()
    scores = score()
    seconds, used = time.perf_counter() - start, time.process_time() - used
    assert np.isfinite(scores).all()
    return {"seconds": seconds, "processor_seconds": used}


class Child:
    """One way in a process of its own, on the first cores of this one's."""

    def __init__(self, way: str, name: str, arguments: argparse.Namespace) -> None:
        cores = sorted(os.sched_getaffinity(0))[: arguments.cores]
        settings = [f"--upstream={arguments.upstream}", f"--cores={len(cores)}"]
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--child", way, "--case", name, *settings],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: os.sched_setaffinity(0, cores),
        )

    def ask(self, word: str) -> dict[str, Any]:
        """The answer to one word."""
        assert self._process.stdin and self._process.stdout
        print(word, file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"a process of the benchmark ended with {self._process.wait()}")
        return json.loads(line)

    def close(self) -> None:
        """Ends the process."""
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()


def measure(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Runs both ways of a case in turn; gives raw numbers and what follows from them."""
    case = CASES[name]
    children = {way: Child(way, name, arguments) for way in _WAYS}
    raw: dict[str, Any] = {way: {"rounds": []} for way in _WAYS}
    for way, child in children.items():
        raw[way]["warm"] = child.ask("warm")
        raw[way]["about"] = child.ask("about")
    children["ours"].ask("bare")  # compiles
    raw["bare"] = []
    for _ in range(arguments.rounds):
        raw["bare"].append(children["ours"].ask("bare")["flops_per_second"])
        for way, child in children.items():
            raw[way]["rounds"].append(child.ask("round"))
            print(f"{name} {way}: {raw[way]['rounds'][-1]}", file=sys.stderr)
    for child in children.values():
        child.close()
    return {**summary(case, raw), "raw": raw}


def summary(case: Case, raw: dict[str, Any]) -> dict[str, Any]:
    """Medians, ratios and utilisation."""
    median = {
        way: {
            key: statistics.median(each[key] for each in raw[way]["rounds"]) / case.pairs
            for key in ("seconds", "processor_seconds")
        }
        for way in _WAYS
    }
    ratios = {key: median["torch"][key] / median["ours"][key] for key in median["ours"]}
    bare = statistics.median(raw["bare"])
    return {
        "pairs_per_second": {way: 1 / median[way]["seconds"] for way in _WAYS},
        "processor_seconds_per_pair": {way: median[way]["processor_seconds"] for way in _WAYS},
        "ratio": ratios["seconds"],
        "ratio_of_processor_seconds": ratios["processor_seconds"],
        "target_ratio": case.target,
        "target_met": ratios["seconds"] >= case.target,
        "flops_per_pair": case.flops,
        "bare_product_flops_per_second": bare,
        "utilisation": case.flops / median["ours"]["seconds"] / bare,
    }


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("cases", nargs="*", default=CASES)
    parser.add_argument("--upstream", required=True, type=pathlib.Path, help="folder of checkouts")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cores", type=int, default=os.cpu_count())
    parser.add_argument("--output", type=pathlib.Path, default=_RESULTS)
    parser.add_argument("--child", choices=_WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--case", choices=CASES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        serve(arguments)
        return
    document: dict[str, Any] = {
        "benchmark": "rerank",
        "machine": f"{platform.machine()}, {arguments.cores} of {os.cpu_count()} cores",
        "python": platform.python_version(),
        "rounds": arguments.rounds,
        "cases": {},
    }
    print(f"{'':<12}{'ours, pairs/s':>15}{'torch':>9}{'ratio':>8}{'of CPU s':>10}{'use':>7}")
    for name in arguments.cases:
        found = measure(name, arguments)
        document["cases"][name] = found
        rate = found["pairs_per_second"]
        print(
            f"{name:<12}{rate['ours']:>15.2f}{rate['torch']:>9.2f}{found['ratio']:>8.2f}"
            f"{found['ratio_of_processor_seconds']:>10.2f}{found['utilisation']:>7.2f}",
            flush=True,
        )
        arguments.output.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
