"""The groups that the benchmark reports, as arrays of labels."""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np

from ilias_jax.dataset.ground_truth import GroundTruth, object_of

SCALE_BOUNDS = (0, 0.06880213760855043, 0.13526567164179104, 0.2729876723163842, math.inf)
CLUTTER_BOUNDS = (0, 18, 33, 53, math.inf)


@dataclasses.dataclass(frozen=True, eq=False)
class Labels:
    """The labels of Q queries and P positives as numbers.

    Objects are numbered 0..O-1 in the order of their names; only objects with a query count. The G
    groups are all positives, then those of scale, then those of clutter.
    """

    query_object: np.ndarray  # [Q] int32 number of the query's object
    positive_object: np.ndarray  # [P] int32 number of the positive's object; O: it has no query
    members: np.ndarray  # [G, P] bool, the positive is in the group
    categories: np.ndarray  # [O, C] bool, the object is in the category or subcategory
    names: tuple[tuple[str, str], ...]  # (section, key): map, oracle, groups, C categories


def make_labels(query_ids: Sequence[str], ground_truth: GroundTruth) -> Labels:
    """The labels of the queries of one ranking."""
    owners = [object_of(query) for query in query_ids]
    objects = sorted(set(owners))
    numbers = {obj: number for number, obj in enumerate(objects)}
    positives = [numbers.get(object_of(i), len(objects)) for i in ground_truth.positive_ids]
    categories, category_names = category_members(objects, ground_truth.taxonomy)
    return Labels(
        query_object=np.array([numbers[obj] for obj in owners], np.int32),
        positive_object=np.array(positives, np.int32),
        members=np.concatenate(
            [
                np.ones((1, len(positives)), bool),
                _members(ground_truth.scale, SCALE_BOUNDS),
                _members(ground_truth.clutter, CLUTTER_BOUNDS),
            ]
        ),
        categories=categories,
        names=(
            ("map", "map"),
            ("oracle", "oracle"),
            *(("scale", key) for key in bounds_keys(SCALE_BOUNDS)),
            *(("clutter", key) for key in bounds_keys(CLUTTER_BOUNDS)),
            *category_names,
        ),
    )


def category_members(
    objects: Sequence[str], taxonomy: Mapping[str, Sequence[str]]
) -> tuple[np.ndarray, list[tuple[str, str]]]:
    """Which of O objects are in which of C categories and subcategories.

    Args:
        objects: their names.
        taxonomy: object -> (coarse, mid, ...) category.

    Returns:
        [O, C] bool, and C pairs: ("categories", coarse) sorted, then ("subcategories", coarse-mid).
    """
    coarse = [("categories", taxonomy[name][0]) for name in objects]
    mid = [("subcategories", "-".join(taxonomy[name][:2])) for name in objects]
    names = [*sorted(set(coarse)), *sorted(set(mid))]
    own = zip(coarse, mid, strict=True)
    return np.array([[name in pair for name in names] for pair in own], bool), names


def bounds_keys(bounds: Sequence[float]) -> list[str]:
    """Names the groups between neighbouring bounds as the official evaluator does, "low-high"."""
    return [f"{low}-{high}" for low, high in zip(bounds[:-1], bounds[1:], strict=True)]


def _members(values: np.ndarray, bounds: Sequence[float]) -> np.ndarray:
    """[G, P] bool: low <= value < high. In numpy float64: some devices only emulate that type."""
    edges = np.array(bounds, np.float64)[:, None]
    return (values >= edges[:-1]) & (values < edges[1:])
