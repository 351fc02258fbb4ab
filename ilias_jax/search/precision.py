"""Chooses the precision of the products that filter, by measurement."""

import functools
import statistics
import time
from collections.abc import Callable
from typing import Literal

import jax
import numpy as np
from jax.sharding import Mesh

from ilias_jax.search.product import Precision, Product

Filter = Literal["auto", "float32", "bfloat16"]

# Below this many multiplications a search is over before a measurement pays.
_WORTH_MEASURING = 10**11
_QUERIES, _ROWS, _ROUNDS = 256, 8192, 5


def choose_precision(mesh: Mesh, wanted: Filter, shape: tuple[int, int, int]) -> Precision:
    """The faster precision on these devices; results are the same with either.

    Args:
        mesh: where the products run.
        wanted: "auto" to choose, or the precision itself.
        shape: (queries, database rows, channels) of the search.
    """
    if wanted != "auto":
        return wanted
    num_queries, num_rows, dim = shape
    if num_queries * num_rows * dim < _WORTH_MEASURING:
        return "float32"
    return _faster(mesh, dim)


@functools.cache
def _faster(mesh: Mesh, dim: int) -> Precision:
    """What takes less time for small products of the kind, in interleaved runs."""
    rng = np.random.default_rng(0)
    queries = rng.standard_normal((_QUERIES, dim), np.float32)
    runs: dict[Precision, Callable[[], object]] = {}
    for precision in ("float32", "bfloat16"):
        product = Product.open(mesh, _ROWS, queries, precision)
        rows = rng.standard_normal((product.rows_at_once, dim), np.float32)
        runs[precision] = functools.partial(_run, product, rows)
        runs[precision]()
    times: dict[Precision, list[float]] = {precision: [] for precision in runs}
    for _ in range(_ROUNDS):
        for precision, run in runs.items():
            start = time.perf_counter()
            run()
            times[precision].append(time.perf_counter() - start)
    return min(times, key=lambda precision: statistics.median(times[precision]))


def _run(product: Product, rows: np.ndarray) -> None:
    jax.block_until_ready(product.multiply(rows))
