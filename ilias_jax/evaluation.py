"""Official similarity files in, official numbers out."""

import dataclasses
import json
from collections.abc import Collection, Sequence
from typing import Any

from etils import epath

from ilias_jax import atomic
from ilias_jax.errors import UserError
from ilias_jax.ground_truth import read_ground_truth
from ilias_jax.metrics.list_checks import check_allowances, check_lists
from ilias_jax.metrics.lists import ListScores, score_lists
from ilias_jax.official.distractor_ids import absent_distractors
from ilias_jax.official.similarities import read_similarities


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluation:
    """The numbers of one result.

    Attributes:
        k: the cut.
        scores: "image" or "text" -> its numbers; one kind, or both where that is allowed.
        notes: what was allowed and what it does to the numbers, a sentence each.
    """

    k: int
    scores: dict[str, ListScores]
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: the official keys on top, or under each of two kinds."""
        kinds = {kind: self._kind(kind) for kind in self.scores}
        return kinds if len(kinds) > 1 else next(iter(kinds.values()))

    def lines(self) -> list[str]:
        """What a user reads on the screen."""
        return [
            *(line for kind in self.scores for line in self._lines_of(kind)),
            *(f"note: {note}" for note in self.notes),
        ]

    def _kind(self, kind: str) -> dict[str, Any]:
        scores = self.scores[kind]
        metrics = scores.metrics
        return {
            "map": metrics.map,
            "aps": metrics.aps.tolist(),
            "queries": list(metrics.query_ids),
            "oracle": scores.official_oracle,
            "scale": metrics.scale,
            "clutter": metrics.clutter,
            "categories": metrics.categories,
            "subcategories": metrics.subcategories,
            # From here on ours.
            "kind": kind,
            "k": self.k,
            "num_queries": metrics.num_queries,
            "ci95": list(metrics.ci95),
            "recall": metrics.oracle,
            "shortest_list": scores.shortest,
            "num_ambiguous": scores.num_ambiguous,
            "intervals": {
                section: {key: list(interval) for key, interval in groups.items()}
                for section, groups in metrics.intervals.items()
            },
            "counts": metrics.counts,
            "notes": [*self.notes, *self._remarks(scores)],
        }

    def _lines_of(self, kind: str) -> list[str]:
        scores = self.scores[kind]
        metrics = scores.metrics
        low, high = metrics.ci95
        lines = [
            f"{metrics.num_queries:,} {kind} queries: mAP@{self.k:,} {metrics.map:.2f} %, 95 % "
            f"interval {low:.2f} to {high:.2f}; oracle {scores.official_oracle:.2f} %"
        ]
        for section in ("scale", "clutter", "categories"):
            groups = getattr(metrics, section).items()
            cells = ", ".join(f"{_short(key)} {value:.2f}" for key, value in groups)
            lines.append(f"  {section}: {cells}")
        return lines + [f"  note: {remark}" for remark in self._remarks(scores)]

    def _remarks(self, scores: ListScores) -> list[str]:
        remarks = []
        if scores.shortest < self.k:
            remarks.append(
                f"the shortest list has {scores.shortest:,} of {self.k:,} entries; the official "
                "oracle is too high for such lists: the retrieval recall"
                f"@{self.k:,} is {scores.metrics.oracle:.2f} %"
            )
        if scores.num_ambiguous:
            remarks.append(
                f"{scores.num_ambiguous:,} queries have a positive among equal scores on both "
                f"sides of rank {self.k:,}; the order in the file decides here, the official "
                "evaluator leaves it to an unstable sort"
            )
        return remarks


def evaluate_files(
    paths: Sequence[epath.PathLike],
    ids_dir: epath.PathLike,
    *,
    taxonomy: epath.PathLike | None = None,
    k: int = 1000,
    allowed: Collection[str] = (),
    check_distractors: bool = False,
) -> Evaluation:
    """Scores a result, one similarity file or its parts, as the official evaluator does.

    Args:
        paths: JSON or pickle files; queries in several files are parts of one search if allowed.
        ids_dir: folder with `image_ids/`, and `misc/taxonomy.json` unless `taxonomy` is given.
        taxonomy: the official taxonomy file.
        k: the cut, 1000 in the benchmark.
        allowed: names of `metrics.list_checks.ALLOWANCES`.
        check_distractors: look every distractor up in `image_ids/distractor_ids.txt.gz`.

    Raises:
        UserError: a file is missing or broken, or the lists break a rule that is not allowed.
    """
    check_allowances(allowed)
    if k < 1:
        raise UserError(f"k = {k}; it must be at least 1, the official value is 1000")
    ground_truth = read_ground_truth(ids_dir, taxonomy)
    lists = read_similarities(paths)

    def find_distractors(ids: set[str]) -> tuple[set[str], int]:
        path = epath.Path(ids_dir) / "image_ids" / "distractor_ids.txt.gz"
        return absent_distractors(path, ids)

    checked = check_lists(
        lists, ground_truth, k, allowed, find_distractors if check_distractors else None
    )
    scores = {kind: score_lists(part, ground_truth, k) for kind, part in checked.lists.items()}
    return Evaluation(k, scores, checked.notes)


def write_evaluation(evaluation: Evaluation, path: epath.PathLike) -> None:
    """Writes the numbers as JSON, whole or not at all."""
    text = json.dumps(evaluation.to_dict(), indent=1, allow_nan=False) + "\n"
    atomic.write_bytes(epath.Path(path), text.encode())


def _short(key: str) -> str:
    """A group's key with its bounds cut to three places."""
    parts = key.split("-")
    shown = [f"{float(part):.3g}" if part.replace(".", "").isdigit() else part for part in parts]
    return "-".join(shown)
