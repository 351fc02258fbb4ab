"""Measures ScaNN's index on a small database of clustered vectors."""

import dataclasses
import time
from collections.abc import Callable

import numpy as np

from ilias_jax.plan.calibrate_search import Rows, random_rows
from ilias_jax.plan.recipe import Recipe
from ilias_jax.plan.scann_work import build_work, search_work

_LEAST_ROWS, _MOST_ROWS = 4096, 32_768
_QUERIES = 64
_CLUSTERS = 256
_EXPECTED = 2e9  # units of building in a second, for the choice of the number of rows
Search = Callable[[np.ndarray], object]


@dataclasses.dataclass(frozen=True)
class ScannCosts:
    """Seconds of a unit of `scann_work.build_work` and of `scann_work.search_work`."""

    build: float
    search: float
    how: tuple[str, ...]


def clustered_rows(num_rows: int, dim: int, dtype: str) -> np.ndarray:
    """[num_rows, dim] L2-normalised vectors around common centres, as embeddings are."""
    centres = random_rows(_CLUSTERS, dim, "float32")
    rows = random_rows(num_rows, dim, "float32", seed=1) + centres[np.arange(num_rows) % _CLUSTERS]
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(dtype)


def measure(recipe: Recipe, build: Callable[[Rows], Search], seconds: float) -> ScannCosts:
    """Times building an index and searching it.

    Args:
        recipe: the recipe.
        build: builds an index and gives its search, of k rows.
        seconds: to spend, about.
    """
    count = num_rows_for(recipe, seconds / 2)
    rows = Rows(clustered_rows(count, recipe.dim, recipe.config.embed.storage_dtype))
    queries = rows.array[:_QUERIES]
    start = time.perf_counter()
    search = build(rows)
    built = time.perf_counter() - start
    search(queries)
    start = time.perf_counter()
    search(queries)
    searched = time.perf_counter() - start
    return ScannCosts(
        built / build_work(recipe, count),
        searched / (len(queries) * search_work(recipe, count)),
        (
            f"ScaNN over {count:,} clustered rows: built in {built:.3g} s, {_QUERIES} queries in "
            f"{searched:.3g} s",
        ),
    )


def num_rows_for(recipe: Recipe, seconds: float) -> int:
    """Rows of which the index is built in about the given time."""
    count = _MOST_ROWS
    while count > _LEAST_ROWS and build_work(recipe, count) > seconds * _EXPECTED:
        count //= 2
    return count
