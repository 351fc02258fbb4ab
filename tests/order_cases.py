"""Re-ranked lists of `official_cases`' world, for the official evaluator and for ours.

Standard library alone, as the script that runs the official evaluator imports it.
"""

import json
import pathlib
import random

import official_cases

CASE = official_cases.CASES[0]
LENGTHS = (10, 100, 1000)
VALUES = pathlib.Path(__file__).parent / "data" / "rerank" / "official_order.json"


def new_scores(length: int, num_queries: int) -> list[list[float]]:
    """Scores of the first entries of every list, with ties; some are far from similarities."""
    draw = random.Random(length)
    return [
        [(draw.randrange(length // 2) - 3) * 0.25 for _ in range(length)]
        for _ in range(num_queries)
    ]


def write_expected(folder: pathlib.Path, length: int) -> pathlib.Path:
    """The re-ranked file by definition: sorted anew up to M, the rest behind it as it was."""
    path, _ = official_cases.write_lists(CASE, folder)
    lists = json.loads(path.read_text())
    found = {}
    pairs = zip(sorted(lists), new_scores(length, len(lists)), strict=True)
    for query, scores in pairs:
        names = sorted(lists[query], key=lambda name: -lists[query][name])
        first = sorted(zip(scores, names, strict=False), key=lambda pair: -pair[0])
        order = [name for _, name in first] + names[length:]
        found[query] = {name: -place for place, name in enumerate(order)}
    output = folder / f"reranked_{length}.json"
    output.write_text(json.dumps(found))
    return output
