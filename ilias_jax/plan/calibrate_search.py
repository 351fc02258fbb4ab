"""Measures exact search and the bare product of the same shapes, on random rows."""

import dataclasses
from collections.abc import Callable, Iterator

import jax
import numpy as np
from jax.sharding import Mesh

from ilias_jax.mesh import num_data_partitions
from ilias_jax.plan.constants import SearchCost
from ilias_jax.plan.recipe import Recipe
from ilias_jax.plan.stopwatch import steady_seconds
from ilias_jax.records import OFFICIAL_CORE
from ilias_jax.search.precision import choose_precision
from ilias_jax.search.product import Product

_FEW = 100  # queries
_MANY = OFFICIAL_CORE["image_query"]
_MOST_BLOCKS = 4
_LARGE = 10**9  # rows of a database for which the quicker precision is chosen
Search = Callable[["Rows", np.ndarray], object]


@dataclasses.dataclass(frozen=True, eq=False)
class Rows:
    """Vectors in memory as a search reads them; `array` is [N, D], L2-normalised."""

    array: np.ndarray

    def num_rows(self) -> int:
        """N."""
        return len(self.array)

    def ids(self) -> list[str]:
        """All ids in row order."""
        return [f"row/{number}" for number in range(len(self.array))]

    def vectors(self) -> np.ndarray:
        """All rows at once."""
        return self.array

    def rows(self, indices: np.ndarray) -> np.ndarray:
        """Any rows, [..., D]."""
        return self.array[indices]

    def blocks(self, num_rows: int) -> Iterator[np.ndarray]:
        """Yields blocks [num_rows, D]; the last one may be shorter."""
        for start in range(0, len(self.array), num_rows):
            yield self.array[start : start + num_rows]

    def place_of(self, row: int) -> str:
        """Where a row is, for messages."""
        return f"row {row} of the calibration"


@dataclasses.dataclass(frozen=True)
class SearchTimes:
    """Seconds of three searches: few queries in one block and in all, many queries in all.

    Attributes:
        few_one: few queries, one block.
        few_all: few queries, all blocks.
        many_all: many queries, all blocks.
        few: how many.
        many: how many, more than `few`.
        block: rows of a block.
        blocks: at least 2.
    """

    few_one: float
    few_all: float
    many_all: float
    few: int
    many: int
    block: int
    blocks: int


@dataclasses.dataclass(frozen=True)
class SearchCosts:
    """The cost of an exact search, and of the bare product for a pair of query and row."""

    search: SearchCost
    product: float
    how: tuple[str, ...]


def random_rows(num_rows: int, dim: int, dtype: str, seed: int = 0) -> np.ndarray:
    """[num_rows, dim] L2-normalised random vectors, all different."""
    rows = np.random.default_rng(seed).standard_normal((num_rows, dim), np.float32)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(dtype)


def measure(recipe: Recipe, mesh: Mesh, search: Search, seconds: float) -> SearchCosts:
    """Times exact searches over two sizes and for two numbers of queries, and the product.

    Args:
        recipe: the recipe.
        mesh: of the devices.
        search: searches the first k rows of all queries and waits for the result.
        seconds: to spend, compilation apart.
    """
    config = recipe.config
    block = config.search.block_rows * num_data_partitions(mesh)
    dtype = config.embed.storage_dtype
    one = Rows(random_rows(block, recipe.dim, dtype))
    queries = random_rows(_MANY, recipe.dim, dtype, seed=1)
    few_one = steady_seconds(lambda: search(one, queries[:_FEW]), seconds / 10)
    # Every search runs twice, the first time to compile.
    affordable = seconds / 3 / 2 / few_one
    blocks = max(2, min(_MOST_BLOCKS, int(affordable / 4)))
    many = max(2 * _FEW, min(_MANY, int(affordable / blocks * _FEW)))
    all_rows = np.concatenate(
        [one.array] + [random_rows(block, recipe.dim, dtype, 2 + i) for i in range(blocks - 1)]
    )
    whole = Rows(all_rows)
    times = SearchTimes(
        few_one,
        steady_seconds(lambda: search(whole, queries[:_FEW]), seconds / 6),
        steady_seconds(lambda: search(whole, queries[:many]), seconds / 3),
        _FEW,
        many,
        block,
        blocks,
    )
    # Real databases are large: what takes the time there is measured here.
    precision = choose_precision(mesh, config.search.filter, (many, _LARGE, recipe.dim))
    opened = Product.open(mesh, config.search.block_rows, queries[:many], precision)
    product = product_seconds(opened, one.array, many, seconds / 6)
    rate = 2 * recipe.dim / product
    how = (
        f"exact search, k={config.search.k}: {times.few_one:.3g} s for {_FEW} queries in "
        f"{block:,} rows, {times.few_all:.3g} s in {blocks * block:,}, {times.many_all:.3g} s for "
        f"{many:,} queries in these",
        f"bare {precision} product with group maximum: {rate / 1e9:,.0f} GFLOP/s",
    )
    found = fit(times)
    # No search is quicker than its product; where it seems so, other work disturbed the clock.
    cost = dataclasses.replace(found, pair=max(found.pair, product))
    return SearchCosts(cost, product, how)


def fit(times: SearchTimes) -> SearchCost:
    """The cost that gives these times; what noise makes negative is 0."""
    few_block = max(0.0, times.few_all - times.few_one) / (times.blocks - 1)
    fixed = max(0.0, times.few_one - few_block)
    many_block = max(0.0, times.many_all - fixed) / times.blocks
    pair = max(0.0, many_block - few_block) / (times.block * (times.many - times.few))
    row = max(0.0, few_block / times.block - pair * times.few)
    if not pair:  # then the many queries took no longer: all of it counts for pairs, to be safe
        pair, row = many_block / (times.block * times.many), 0.0
    return SearchCost(fixed, row, pair)


def product_seconds(product: Product, rows: np.ndarray, num_queries: int, seconds: float) -> float:
    """Seconds of the product of a query and a row, from as many rows as are taken at once."""
    part = np.resize(rows, (product.rows_at_once, rows.shape[1]))
    each_call = steady_seconds(lambda: jax.block_until_ready(product.multiply(part)), seconds)
    return each_call / (num_queries * len(part))
