"""The groups that the benchmark reports, as arrays of labels."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from ilias_jax.ground_truth import GroundTruth, object_of

SCALE_BOUNDS = (0, 0.06880213760855043, 0.13526567164179104, 0.2729876723163842, math.inf)
CLUTTER_BOUNDS = (0, 18, 33, 53, math.inf)


@dataclasses.dataclass(frozen=True, eq=False)
class Labels:
    """What the device needs to know about queries and positives, without a name in it.

    Objects are numbered 0..O-1 in the order of their names; only objects with a query count.

    Attributes:
        query_object: [Q] int32 number of the query's object.
        positive_object: [P] int32 number of the positive's object, O where it has no query.
        members: [G, P] bool, the positives in each group: first all of them, then the scale groups,
            then the clutter groups.
        categories: [O, C] bool, the object is in the category or subcategory.
        names: G + 1 + C pairs (section, key): map, oracle, then groups, then categories. The
            order is that of the statistics in `evaluate`.
    """

    query_object: np.ndarray
    positive_object: np.ndarray
    members: np.ndarray
    categories: np.ndarray
    names: tuple[tuple[str, str], ...]


def make_labels(query_ids: Sequence[str], ground_truth: GroundTruth) -> Labels:
    """Encodes the labels of the queries of one ranking (see `Labels`)."""
    objects, query_object, positive_object = number_objects(query_ids, ground_truth.positive_ids)
    paths = [ground_truth.taxonomy[obj][:2] for obj in objects]
    coarse = [path[0] for path in paths]
    mid = ["-".join(path) for path in paths]
    keys = [*sorted(set(coarse)), *sorted(set(mid))]
    num_coarse = len(set(coarse))
    return Labels(
        query_object=query_object,
        positive_object=positive_object,
        members=np.concatenate(
            [
                np.ones((1, len(positive_object)), bool),
                _members(ground_truth.scale, SCALE_BOUNDS),
                _members(ground_truth.clutter, CLUTTER_BOUNDS),
            ]
        ),
        categories=np.concatenate(
            [
                np.array(coarse)[:, None] == np.array(keys[:num_coarse]),
                np.array(mid)[:, None] == np.array(keys[num_coarse:]),
            ],
            axis=1,
        ),
        names=(
            ("map", "map"),
            ("oracle", "oracle"),
            *(("scale", key) for key in bounds_keys(SCALE_BOUNDS)),
            *(("clutter", key) for key in bounds_keys(CLUTTER_BOUNDS)),
            *(("categories", key) for key in keys[:num_coarse]),
            *(("subcategories", key) for key in keys[num_coarse:]),
        ),
    )


def number_objects(
    query_ids: Sequence[str], positive_ids: Sequence[str]
) -> tuple[list[str], np.ndarray, np.ndarray]:
    """The sorted objects that have a query, `query_object` and `positive_object` of `Labels`."""
    query_objects = [object_of(query) for query in query_ids]
    objects = sorted(set(query_objects))
    numbers = {obj: number for number, obj in enumerate(objects)}
    owners = [numbers.get(object_of(positive), len(objects)) for positive in positive_ids]
    query_object = np.array([numbers[obj] for obj in query_objects], np.int32)
    return objects, query_object, np.array(owners, np.int32)


def bounds_keys(bounds: Sequence[float]) -> list[str]:
    """Names the groups between neighbouring bounds as the official evaluator does, "low-high"."""
    return [f"{low}-{high}" for low, high in zip(bounds[:-1], bounds[1:], strict=True)]


def _members(values: np.ndarray, bounds: Sequence[float]) -> np.ndarray:
    """[G, P] bool: low <= value < high. In numpy float64: some devices only emulate that type."""
    edges = np.array(bounds, np.float64)[:, None]
    return (values >= edges[:-1]) & (values < edges[1:])
