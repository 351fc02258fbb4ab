"""How the work of ScaNN's partitioned index grows with the database.

Constants of proportion are measured; the growth is that of the algorithm (Guo et al., 2020).
"""

import math

from ilias_jax.plan.recipe import Recipe

_KMEANS_PASSES = 12
_MOST_TRAINING_ROWS = 250_000  # as `search.scann` samples


def num_leaves(recipe: Recipe, num_rows: int) -> tuple[int, int]:
    """Leaves of the index and those that a query visits, as `search.scann` picks them."""
    scann = recipe.config.search.scann
    leaves = scann.num_leaves or round(math.sqrt(num_rows))
    return leaves, min(scann.num_leaves_to_search or math.ceil(leaves / 3), leaves)


def build_work(recipe: Recipe, num_rows: int) -> float:
    """Multiplications of k-means on the training rows, and of finding every row's leaf."""
    leaves, _ = num_leaves(recipe, num_rows)
    training = _KMEANS_PASSES * min(num_rows, _MOST_TRAINING_ROWS)
    return float((training + num_rows) * leaves * recipe.dim)


def search_work(recipe: Recipe, num_rows: int) -> float:
    """Of one query: products with the leaves, look-ups in the visited ones, exact scores."""
    search = recipe.config.search
    leaves, visited = num_leaves(recipe, num_rows)
    k = min(search.k, num_rows)
    exact = min(num_rows, max(k, search.scann.reorder or 2 * k)) + k
    looked_up = num_rows * visited / leaves / search.scann.dimensions_per_block
    return (leaves + looked_up + exact) * recipe.dim
