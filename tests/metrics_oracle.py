"""The metric written out slowly from the protocol (numpy and scikit-learn), and random worlds."""

import math
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import numpy as np
from sklearn.metrics import average_precision_score

from ilias_jax.dataset.ground_truth import GroundTruth
from ilias_jax.search.ranking import Ranking

SCALES = (0, 0.06880213760855043, 0.13526567164179104, 0.2729876723163842, math.inf)
CLUTTERS = (0, 18, 33, 53, math.inf)


def oracle_ap(
    row: Iterable[int], scores: Iterable[float], wanted: set[int], removed: set[int], k: int
) -> tuple[float, float]:
    """(AP, recall) fractions: drop `removed`, cut at k, score the database indices `wanted`."""
    kept = [
        (index, score) for index, score in zip(row, scores, strict=True) if index not in removed
    ]
    kept = kept[:k]
    truth = np.array([index in wanted for index, _ in kept], bool)
    if not truth.any():
        return 0.0, 0.0
    ap = average_precision_score(truth, np.array([score for _, score in kept]))
    return ap * truth.sum() / min(k, len(wanted)), truth.sum() / len(wanted)


def oracle_report(ranking: Ranking, truth: GroundTruth, k: int) -> dict[str, Any]:
    """The report of the protocol in percent, as nested plain dicts."""
    aps, recalls = [], []
    groups: dict[str, Any] = {"scale": defaultdict(list), "clutter": defaultdict(list)}
    sections: dict[str, Any] = {
        name: defaultdict(lambda: defaultdict(list)) for name in ("coarse", "mid")
    }
    for query, row, scores in zip(ranking.query_ids, ranking.indices, ranking.scores, strict=True):
        obj = query.split("/")[0]
        own = {n for n, i in enumerate(truth.positive_ids) if i.split("/")[0] == obj}
        ap, recall = oracle_ap(row, scores, own, set(), k)
        aps.append(100 * ap)
        recalls.append(100 * recall)
        coarse, mid, _ = truth.taxonomy[obj]
        sections["coarse"][coarse][obj].append(100 * ap)
        sections["mid"][f"{coarse}-{mid}"][obj].append(100 * ap)
        for name, values, bounds in (
            ("scale", truth.scale, SCALES),
            ("clutter", truth.clutter, CLUTTERS),
        ):
            for low, high in zip(bounds[:-1], bounds[1:], strict=True):
                inside = {n for n in own if low <= values[n] < high}
                if inside:
                    ap, _ = oracle_ap(row, scores, inside, own - inside, k)
                    groups[name][f"{low}-{high}"].append(100 * ap)
    return {
        "aps": aps,
        "map": np.mean(aps),
        "oracle": np.mean(recalls),
        **{name: {key: np.mean(v) for key, v in found.items()} for name, found in groups.items()},
        **{
            name: {
                key: np.mean([np.mean(v) for v in objects.values()])
                for key, objects in sections[level].items()
            }
            for name, level in (("categories", "coarse"), ("subcategories", "mid"))
        },
    }


def random_world(
    rng: np.random.Generator,
    num_objects: int,
    num_queries: int,
    num_positives: int,
    kind: str = "image",
) -> GroundTruth:
    """A ground truth; its first objects have queries of `kind`, all have at least a positive."""
    names = [f"object_{n:03d}" for n in range(num_objects)]
    with_query = names[: max(1, num_objects - 1)]
    objects = [*with_query, *rng.choice(with_query, max(0, num_queries - len(with_query)))]
    queries = tuple(f"{obj}/query/Q{n}.jpg" for n, obj in enumerate(objects))
    owners = [*names, *rng.choice(names, num_positives - num_objects)]
    rng.shuffle(owners)
    scale = np.where(rng.random(num_positives) < 0.2, SCALES[2], rng.random(num_positives) ** 2)
    return GroundTruth(
        image_query_ids=queries if kind == "image" else (),
        text_query_ids=queries if kind == "text" else (),
        positive_ids=tuple(f"{obj}/pos/P{n}.jpg" for n, obj in enumerate(owners)),
        scale=scale,
        clutter=rng.choice([0, 17, 18, 32, 33, 52, 53, 200], num_positives).astype(np.int32),
        taxonomy={name: (f"c{n % 3}", f"m{n % 2}", "fine") for n, name in enumerate(names)},
    )


def random_ranking(
    rng: np.random.Generator, queries: Iterable[str], num_database: int, length: int, levels: int
) -> Ranking:
    """Random lists; `levels` distinct scores, so few levels give many ties."""
    indices = np.stack([rng.permutation(num_database)[:length] for _ in queries]).astype(np.int32)
    scores = rng.integers(0, levels, indices.shape).astype(np.float32) / levels - 0.5
    return Ranking(tuple(queries), indices, -np.sort(-scores, axis=1))
