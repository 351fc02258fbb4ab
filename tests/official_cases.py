"""Small similarity files, the same on every machine, for the values of the official evaluator.

Only `random.random` is used: Python promises its numbers for a seed.
"""

import dataclasses
import hashlib
import json
import pathlib
import pickle
import random
from typing import Any

import numpy as np

BOUNDS = (0.06880213760855043, 0.13526567164179104, 0.2729876723163842)
NUM_OBJECTS, NUM_DISTRACTORS = 14, 1500


@dataclasses.dataclass(frozen=True)
class Case:
    """One similarity file and its evaluation.

    Attributes:
        name: of the case and its file.
        kind: "image" or "text" queries.
        suffix: ".json" or ".pkl".
        k: the cut.
        length: entries of each list; 0 for lists of 0 to 120 entries.
        levels: how many different scores there are, 0 for all different.
        dtype: of the scores in a pickle.
        shuffled: lists not sorted by score, in a pickle queries not in order either.
        step: of scores that differ in float64 alone, 0 for scores of ordinary size.
        left_out: every third query is missing.
        unknown: lists hold ids of images that do not exist.
        allowed: what the evaluation has to allow.
    """

    name: str
    kind: str
    suffix: str
    k: int
    length: int
    levels: int = 0
    dtype: str = "float32"
    shuffled: bool = False
    step: float = 0.0
    left_out: bool = False
    unknown: bool = False
    allowed: tuple[str, ...] = ()


SHORT = ("short_lists",)
# Equal scores on both sides of rank k are left to chance by the official evaluator, so lists with
# ties are not longer than k.
CASES = (
    Case("image_json_1000", "image", ".json", 1000, 1000),
    Case("image_json_50_of_1000", "image", ".json", 50, 1000, shuffled=True),
    Case("text_json_1000", "text", ".json", 1000, 1000, shuffled=True),
    Case("text_json_50", "text", ".json", 50, 50),
    Case("image_pickle_1000", "image", ".pkl", 1000, 1000, shuffled=True),
    Case("image_pickle_50_of_1000", "image", ".pkl", 50, 1000, dtype="float64"),
    Case("text_pickle_50", "text", ".pkl", 50, 50, shuffled=True),
    Case("text_pickle_1000", "text", ".pkl", 1000, 1000),
    Case("image_json_ties", "image", ".json", 1000, 1000, levels=40, shuffled=True),
    Case("image_json_ties_50", "image", ".json", 50, 50, levels=7),
    Case("text_json_all_equal", "text", ".json", 50, 50, levels=1, shuffled=True),
    Case("text_pickle_ties", "text", ".pkl", 1000, 1000, levels=300, shuffled=True),
    Case("image_pickle_half_ties", "image", ".pkl", 50, 50, dtype="float16", shuffled=True),
    Case("image_json_short", "image", ".json", 1000, 0, allowed=SHORT),
    Case("image_json_short_ties", "image", ".json", 1000, 0, levels=5, allowed=SHORT),
    Case("text_json_short_50", "text", ".json", 50, 0, allowed=SHORT),
    Case("image_pickle_300", "image", ".pkl", 1000, 300, levels=60, allowed=SHORT),
    Case("image_json_float64_alone", "image", ".json", 1000, 1000, step=1e-12, shuffled=True),
    Case(
        *("image_json_missing", "image", ".json", 50, 200),
        left_out=True,
        allowed=("missing_queries",),
    ),
    Case(
        *("text_pickle_missing", "text", ".pkl", 50, 200),
        left_out=True,
        shuffled=True,
        allowed=("missing_queries",),
    ),
    Case(
        *("image_json_unknown", "image", ".json", 50, 50),
        unknown=True,
        allowed=("unknown_database_ids",),
    ),
)


def write_ids(folder: pathlib.Path) -> None:
    """Writes the id files and the taxonomy of a little world."""
    draw = random.Random(20250)
    images, texts, positives = [], [], []
    taxonomy: dict[str, Any] = {}
    for number in range(NUM_OBJECTS):
        obj = _object(number)
        coarse, mid = taxonomy.setdefault(f"coarse {number % 3}", {}), f"mid-{number % 5}"
        coarse.setdefault(mid, {}).setdefault(f"fine {number % 2}", []).append(obj)
        images += [f"{obj}/query/Q{n:03d}_00.jpg,own" for n in range(1 + number % 3)]
        texts.append(f"{obj}/query/T000.txt")
        # The fourth has more positives than the smaller k.
        size = 60 if number == 3 else 1 + number % 6
        for n in range(size):
            value = (*BOUNDS, 0.03, draw.random())[int(5 * draw.random())]
            clutter = (0, 17, 18, 32, 33, 52, 53, 90)[int(8 * draw.random())]
            positives.append(f"{obj}/pos/P{n:03d}_00.jpg,{value!r},{clutter}")
    for lines in (images, texts, positives):  # the official evaluator sorts what it reads
        lines.sort(key=lambda line: draw.random())
    (folder / "image_ids").mkdir(parents=True)
    (folder / "misc").mkdir()
    for name, lines in (("image_query", images), ("text_query", texts), ("positive", positives)):
        (folder / "image_ids" / f"{name}_ids.txt").write_text("\n".join(lines) + "\n")
    (folder / "misc" / "taxonomy.json").write_text(json.dumps(taxonomy))


def write_lists(case: Case, folder: pathlib.Path) -> tuple[pathlib.Path, str]:
    """Writes the similarity file of a case, for the ids in `folder`.

    Returns:
        Its path, and the digest of the lists: the bytes of a pickle depend on numpy.
    """
    draw = random.Random(case.name)
    queries = _ids(folder, f"{case.kind}_query")
    positives = _ids(folder, "positive")
    if case.left_out:
        queries = [query for n, query in enumerate(queries) if n % 3]
    if case.shuffled and case.suffix == ".pkl":
        queries.sort(key=lambda query: draw.random())
    lists = {query: dict(_list(case, draw, query, positives)) for query in queries}
    text = json.dumps(lists)
    path = folder / f"{case.name}{case.suffix}"
    path.write_bytes(text.encode() if case.suffix == ".json" else _pickled(case, lists))
    return path, hashlib.sha256(text.encode()).hexdigest()


def _list(
    case: Case, draw: random.Random, query: str, positives: list[str]
) -> list[tuple[str, float]]:
    """One list; some queries find all of their positives, some none."""
    obj, luck = query.split("/")[0], draw.random()
    scored = [(name, draw.random()) for name in _distractors()]
    for name in positives:
        boost = 2 * luck * draw.random() - 0.4 if name.startswith(obj + "/") else 0
        scored.append((name, draw.random() + boost))
    if case.unknown:
        scored += [(f"{obj}/pos/none_{n}.jpg", 0.9 + draw.random()) for n in range(3)]
    scored = [(name, _score(case, score)) for name, score in scored]
    scored.sort(key=lambda pair: -pair[1])
    length = case.length or int(120 * draw.random()) * (luck > 0.1)
    scored = scored[:length]
    if case.shuffled:
        scored.sort(key=lambda pair: draw.random())
    return scored


def _score(case: Case, score: float) -> float:
    if case.step:
        return 0.5 + round(score * 1e7) * case.step
    return int(score * case.levels) / case.levels if case.levels else score


def _pickled(case: Case, lists: dict[str, dict[str, float]]) -> bytes:
    """The keys and types that the official search writes."""
    names = sorted({name for found in lists.values() for name in found})
    numbers = {name: number for number, name in enumerate(names)}
    value = {
        "query_ids": np.array(list(lists), object),
        "db_ids": np.array(names),
        "sims": np.array([list(found.values()) for found in lists.values()], case.dtype),
        "ranks": np.array([[numbers[name] for name in found] for found in lists.values()]),
    }
    return pickle.dumps(value)


def _object(number: int) -> str:
    return f"thing_{number:03d}"


def _distractors() -> list[str]:
    return [f"{n % 7:05d}.tar/folder/{n:08d}" for n in range(NUM_DISTRACTORS)]


def _ids(folder: pathlib.Path, name: str) -> list[str]:
    text = (folder / "image_ids" / f"{name}_ids.txt").read_text()
    return [line.split(",")[0] for line in text.splitlines()]
