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
_MANY_QUERIES, _ROWS, _ROUNDS = 4096, 8192, 5
# Rounding leaves more candidates to be scored exactly: products must be that much quicker to pay.
_PAYS = 0.9


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
    return _faster(mesh, min(num_queries, _MANY_QUERIES), dim)


@functools.cache
def _faster(mesh: Mesh, num_queries: int, dim: int) -> Precision:
    """What takes less time for a product as the search will do many, in interleaved runs.

    The number of queries is the search's own, so that what is measured is what will run.
    """
    rng = np.random.default_rng(0)
    queries = rng.standard_normal((num_queries, dim), np.float32)
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
    seconds = {precision: statistics.median(times[precision]) for precision in times}
    return "bfloat16" if seconds["bfloat16"] < _PAYS * seconds["float32"] else "float32"


def _run(product: Product, rows: np.ndarray) -> None:
    jax.block_until_ready(product.multiply(rows))
