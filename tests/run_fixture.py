"""Documents of finished runs with random scores, for the tests of comparisons."""

import numpy as np

OBJECTS = [f"thing_{n:02d}" for n in range(12)]
QUERIES = [f"{name}/query/Q{n}.jpg" for name in OBJECTS for n in range(2)]
TEXTS = [f"{name}/query/T.txt" for name in OBJECTS]


def _section(rng: np.random.Generator, queries: list[str], k: int) -> dict:
    aps = 100 * rng.random(len(queries))
    group = [float(ap) if n % 3 else None for n, ap in enumerate(aps / 2)]
    return {
        f"map@{k}": float(aps.mean()),
        "ci95": [0.0, 100.0],
        "aps": dict(zip(queries, aps.tolist(), strict=True)),
        "group_aps": {"scale": {"0-0.5": group, "0.5-inf": group}, "clutter": {"0-18": group}},
    }


def document(seed: int, k: int = 1000, distractors: int = 500) -> dict:
    """A `report.json` as plain values; documents of all seeds have the same queries."""
    rng = np.random.default_rng(seed)
    return {
        "schema": 1,
        "dataset": {
            "name": "world",
            "subset": "full",
            "num_positives": 40,
            "num_distractors": distractors,
            "num_rejected": 0,
        },
        "model": {"name": f"model {seed}"},
        "objects": {name: ["art" if n % 2 else "toy", "m"] for n, name in enumerate(OBJECTS)},
        "results": {
            "image_to_image": _section(rng, QUERIES, k),
            "text_to_image": _section(rng, TEXTS, k),
        },
    }


def official(seed: int, queries: list[str] = QUERIES) -> dict:
    """A result with the official keys."""
    aps = 100 * np.random.default_rng(seed).random(len(queries))
    return {"queries": queries, "map": float(aps.mean()), "aps": aps.tolist(), "oracle": 50.0}
