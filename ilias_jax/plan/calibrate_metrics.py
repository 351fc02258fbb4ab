"""Measures the metrics on made-up rankings of the demo's and of the official size."""

import dataclasses
from collections.abc import Callable

import numpy as np

from ilias_jax.ground_truth import GroundTruth
from ilias_jax.metrics import evaluate
from ilias_jax.plan.constants import Linear
from ilias_jax.plan.recipe import Recipe
from ilias_jax.plan.sizes import Sizes, sizes_of
from ilias_jax.plan.stopwatch import steady_seconds
from ilias_jax.ranking import Ranking

_CATEGORIES = 8
_SUBCATEGORIES = 48


@dataclasses.dataclass(frozen=True)
class MetricsCost:
    """Seconds of one section by its number of queries."""

    cost: Linear
    how: tuple[str, ...]


def measure(recipe: Recipe, seconds: float) -> MetricsCost:
    """Times one section of image queries of the default demo and of the official benchmark."""
    demo, _, full = sizes_of(None)
    times = [steady_seconds(scoring(recipe, sizes), seconds / 4) for sizes in (demo, full)]
    counts = [demo.num_image_queries, full.num_image_queries]
    how = (
        f"metrics with {recipe.config.metrics.num_resamples:,} resamples: {times[0]:.3g} s for "
        f"{counts[0]} queries, {times[1]:.3g} s for {counts[1]:,}",
    )
    return MetricsCost(fit(counts, times), how)


def fit(counts: list[int], times: list[float]) -> Linear:
    """The line through two points; what noise makes negative is 0."""
    each = max(0.0, (times[1] - times[0]) / (counts[1] - counts[0]))
    return Linear(max(0.0, times[0] - each * counts[0]), each)


def scoring(recipe: Recipe, sizes: Sizes) -> Callable[[], object]:
    """A call that scores a made-up ranking of all image queries."""
    truth = made_up_truth(sizes)
    k = min(recipe.config.search.k, sizes.num_rows)
    count = len(truth.image_query_ids)
    rng = np.random.default_rng(0)
    steps = rng.integers(1, max(2, sizes.num_rows // k), (count, k), np.int32)
    rows = np.minimum(np.cumsum(steps, axis=1), sizes.num_rows - 1 - np.arange(k)[::-1])
    scores = np.sort(rng.random((count, k), np.float32), axis=1)[:, ::-1]
    ranking = Ranking(truth.image_query_ids, rows.astype(np.int32), np.ascontiguousarray(scores))
    settings = dataclasses.asdict(recipe.config.metrics)
    return lambda: evaluate(ranking, truth, recipe.config.search.k, sizes.num_rows, **settings)


def made_up_truth(sizes: Sizes) -> GroundTruth:
    """Labels of the right sizes: objects take turns with queries, positives and categories."""
    objects = [f"object_{number:04d}" for number in range(sizes.num_text_queries)]

    def ids(count: int, form: str) -> tuple[str, ...]:
        return tuple(f"{objects[i % len(objects)]}/{form}{i:05d}.jpg" for i in range(count))

    count = sizes.num_positives
    return GroundTruth(
        ids(sizes.num_image_queries, "query/Q"),
        (),
        ids(count, "pos/P"),
        np.linspace(0.01, 0.9, count),
        np.arange(count, dtype=np.int32) % 70,
        {
            name: (f"c{i % _CATEGORIES}", f"m{i % _SUBCATEGORIES}", "fine")
            for i, name in enumerate(objects)
        },
    )
