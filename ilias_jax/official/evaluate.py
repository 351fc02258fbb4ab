"""Official similarity files in, official numbers out.

The official evaluator passes over most of what can be wrong with a list. Here each is an error with
a name, and a user who allows it by name is told what it does to the numbers.
"""

import dataclasses
import functools
import itertools
import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from ilias_jax import files
from ilias_jax.config import MAX_K
from ilias_jax.dataset.ground_truth import GroundTruth, read_ground_truth
from ilias_jax.dataset.id_lists import absent_distractors
from ilias_jax.errors import UserError
from ilias_jax.metrics.lists import SimilarityLists, merge_repeated_queries
from ilias_jax.metrics.scores import GROUPINGS, ListScores, score_lists
from ilias_jax.official.similarities import read_similarities

_DISTRACTOR = re.compile(r"[^/]+\.tar/.", re.DOTALL)
# name -> what is done once it is allowed.
ALLOWANCES: Mapping[str, str] = {
    "missing_queries": "the means are over the queries that are there",
    "unknown_queries": "they are left out",
    "repeated_queries": "the lists of a query are joined, as parts of one search, and cut at the "
    "length of the longest",
    "repeated_database_ids": "the best score of an id counts, the others are left out of the list",
    "unknown_database_ids": "they count as wrong answers",
    "non_finite_scores": "these entries are left out of their lists",
    "mixed_kinds": "image and text queries give two results, which are never averaged together",
    "short_lists": "what is behind the end of a list counts as not found; the official oracle is "
    "too high for them",
}
# Given ids, returns those that are no distractors and the number of all distractors.
FindDistractors = Callable[[set[str]], tuple[set[str], int]]


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluation:
    """The numbers of one result."""

    k: int  # the cut
    scores: dict[str, ListScores]  # by "image" or "text": one kind, or both where that is allowed
    notes: tuple[str, ...]  # what was allowed and what it does to the numbers, a sentence each

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: the official keys on top, or under each of two kinds."""
        kinds = {kind: self._document(kind, scores) for kind, scores in self.scores.items()}
        return kinds if len(kinds) > 1 else next(iter(kinds.values()))

    def lines(self) -> list[str]:
        """What a user reads on the screen."""
        lines = [line for pair in self.scores.items() for line in self._lines(*pair)]
        return [*lines, *(f"note: {note}" for note in self.notes)]

    def _document(self, kind: str, scores: ListScores) -> dict[str, Any]:
        metrics, plain = scores.metrics, scores.metrics.to_dict()
        return {
            "map": metrics.map,
            "aps": metrics.aps.tolist(),
            "queries": list(metrics.query_ids),
            "oracle": scores.official_oracle,
            **{section: plain[section] for section in GROUPINGS},
            # The official keys end here.
            "kind": kind,
            "k": self.k,
            "num_queries": metrics.num_queries,
            "ci95": plain["ci95"],
            "recall": metrics.oracle,
            "shortest_list": scores.shortest,
            "num_ambiguous": scores.num_ambiguous,
            "intervals": plain["intervals"],
            "counts": plain["counts"],
            "notes": [*self.notes, *self._remarks(scores)],
        }

    def _lines(self, kind: str, scores: ListScores) -> Iterator[str]:
        metrics = scores.metrics
        low, high = metrics.ci95
        yield (
            f"{metrics.num_queries:,} {kind} queries: mAP@{self.k:,} {metrics.map:.2f} %, 95 % "
            f"interval {low:.2f} to {high:.2f}; oracle {scores.official_oracle:.2f} %"
        )
        for section in ("scale", "clutter", "categories"):
            groups = getattr(metrics, section).items()
            cells = ", ".join(f"{_short(key)} {value:.2f}" for key, value in groups)
            yield f"  {section}: {cells}"
        yield from (f"  note: {remark}" for remark in self._remarks(scores))

    def _remarks(self, scores: ListScores) -> Iterator[str]:
        if scores.shortest < self.k:
            yield (
                f"the shortest list has {scores.shortest:,} of {self.k:,} entries; the official "
                "oracle is too high for such lists: the retrieval recall"
                f"@{self.k:,} is {scores.metrics.oracle:.2f} %"
            )
        if scores.num_ambiguous:
            yield (
                f"{scores.num_ambiguous:,} queries have a positive among equal scores on both "
                f"sides of rank {self.k:,}; the order in the file decides here, the official "
                "evaluator leaves it to an unstable sort"
            )


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
        taxonomy: the official file.
        k: the cut, 1000 in the benchmark.
        allowed: names of `ALLOWANCES`.
        check_distractors: look every distractor up in `image_ids/distractor_ids.txt.gz`.

    Raises:
        UserError: a file is missing or broken, or the lists break a rule that is not allowed.
    """
    if unknown := sorted(set(allowed) - set(ALLOWANCES)):
        raise UserError(f"--allow {unknown[0]!r}: no such name; choose of {', '.join(ALLOWANCES)}")
    if not 1 <= k <= MAX_K:
        raise UserError(f"k = {k}; it must be 1 to {MAX_K:,}, the official value is 1000")
    ground_truth = read_ground_truth(ids_dir, taxonomy)
    lists = read_similarities(paths)
    path = epath.Path(ids_dir) / "image_ids" / "distractor_ids.txt.gz"
    lookup = functools.partial(absent_distractors, path) if check_distractors else None
    kinds, notes = check_lists(lists, ground_truth, k, allowed, lookup)
    scores = {kind: score_lists(part, ground_truth, k) for kind, part in kinds.items()}
    return Evaluation(k, scores, notes)


def write_evaluation(evaluation: Evaluation, path: epath.PathLike) -> None:
    """Writes the numbers as JSON, whole or not at all."""
    text = json.dumps(evaluation.to_dict(), indent=1, allow_nan=False) + "\n"
    files.write_bytes(epath.Path(path), text.encode())


def check_lists(
    lists: SimilarityLists,
    ground_truth: GroundTruth,
    k: int,
    allowed: Collection[str] = (),
    find_distractors: FindDistractors | None = None,
) -> tuple[dict[str, SimilarityLists], tuple[str, ...]]:
    """Checks the lists of a file and makes them fit to be scored, as far as that is allowed.

    Without `find_distractors`, whatever looks like a distractor, `<file>.tar/<key>`, is one.
    `allowed` holds names of `ALLOWANCES`.

    Returns:
        "image" or "text" -> its lists, each query once; and what was found and allowed, a sentence
        each.

    Raises:
        UserError: something was found that is not allowed; one message for all of it.
    """
    report = _ValidationReport()
    lists = _known_queries(lists, ground_truth, report)
    lists, repeated = merge_repeated_queries(lists)
    report.add("repeated_queries", len(repeated), "queries with several lists", repeated)
    what = "scores that are NaN or infinite"
    lists = _without(lists, ~np.isfinite(lists.scores), "non_finite_scores", what, report)
    what = "entries whose id is in the same list already"
    lists = _without(lists, ~lists.first_of_ids(), "repeated_database_ids", what, report)
    num_distractors = _check_database_ids(lists, ground_truth, report, find_distractors)
    kinds = _kinds(lists, ground_truth, report)
    needed = min(k, len(ground_truth.positive_ids) + num_distractors)
    short = [lists.query_ids[n] for n in np.flatnonzero(lists.lengths < needed)]
    what = f"lists of fewer than {needed:,} entries, the shortest of {lists.lengths.min():,}"
    report.add("short_lists", len(short), what, short)
    return kinds, report.enforce(allowed)


class _ValidationReport:
    """Collects all that is wrong, so that one message names it all."""

    def __init__(self) -> None:
        self.found: dict[str, str] = {}

    def add(self, name: str, number: int, what: str, examples: Iterable[str]) -> None:
        if number:
            shown = [*map(repr, itertools.islice(examples, 3)), *["..."] * (number > 3)]
            self.found[name] = f"{number:,} {what} ({', '.join(shown)})"

    def enforce(self, allowed: Collection[str]) -> tuple[str, ...]:
        """Returns the notes on what is allowed; raises UserError if something else was found."""
        refused = {name: what for name, what in self.found.items() if name not in allowed}
        if refused:
            names = refused.items()
            lines = [f"  {what}\n    --allow {name}: {ALLOWANCES[name]}" for name, what in names]
            raise UserError("similarities: nothing was scored, because of\n" + "\n".join(lines))
        return tuple(f"{what}; allowed: {ALLOWANCES[name]}" for name, what in self.found.items())


def _known_queries(
    lists: SimilarityLists, ground_truth: GroundTruth, report: _ValidationReport
) -> SimilarityLists:
    known = {*ground_truth.image_query_ids, *ground_truth.text_query_ids}
    unknown = [query for query in lists.query_ids if query not in known]
    report.add("unknown_queries", len(unknown), "queries that the id files do not have", unknown)
    if not lists.query_ids:
        raise UserError("similarities: no query in the files; expected image or text queries")
    if len(unknown) == len(lists.query_ids):
        raise UserError(
            f"similarities: none of the {len(unknown)} queries {unknown[:3]} is in the id files; "
            "expected official image or text query ids: do the files belong to another dataset?"
        )
    return lists.take([n for n, query in enumerate(lists.query_ids) if query in known])


def _without(
    lists: SimilarityLists, wrong: np.ndarray, name: str, what: str, report: _ValidationReport
) -> SimilarityLists:
    found = np.flatnonzero(wrong)
    pairs = zip(lists.entries[found], lists.rows[found], strict=True)
    examples = (f"{lists.database_ids[entry]} of {lists.query_ids[row]}" for entry, row in pairs)
    report.add(name, len(found), what, examples)
    return lists.keep(~wrong) if len(found) else lists


def _check_database_ids(
    lists: SimilarityLists,
    ground_truth: GroundTruth,
    report: _ValidationReport,
    find_distractors: FindDistractors | None,
) -> int:
    """Notes unknown ids and returns how many distractors there are at least."""
    others = set(lists.database_ids) - set(ground_truth.positive_ids)
    if find_distractors is None:
        expected = "`<file>.tar/<key>`"
        unknown = set(itertools.filterfalse(_DISTRACTOR.match, others))
        num_distractors = len(others) - len(unknown)
    else:
        expected = "in distractor_ids.txt.gz"
        unknown, num_distractors = find_distractors(others)
    what = f"database ids that are neither a positive nor {expected}"
    report.add("unknown_database_ids", len(unknown), what, sorted(unknown))
    return num_distractors


def _kinds(
    lists: SimilarityLists, ground_truth: GroundTruth, report: _ValidationReport
) -> dict[str, SimilarityLists]:
    """Splits the lists by query kind and notes what is missing of each."""
    known = {"image": ground_truth.image_query_ids, "text": ground_truth.text_query_ids}
    kinds, missing, wanted = {}, [], []
    for kind, ids in known.items():
        members = set(ids)
        if numbers := [n for n, query in enumerate(lists.query_ids) if query in members]:
            kinds[kind] = lists.take(numbers)
            missing += sorted(members - set(kinds[kind].query_ids))
            wanted.append(f"{len(ids):,} {kind} queries")
    report.add("missing_queries", len(missing), f"of {' and '.join(wanted)} missing", missing)
    if len(kinds) > 1:
        sizes = [f"{len(part.query_ids)} {kind} queries" for kind, part in kinds.items()]
        examples = [part.query_ids[0] for part in kinds.values()]
        report.add("mixed_kinds", 2, f"query kinds in one result: {', '.join(sizes)}", examples)
    return kinds


def _short(key: str) -> str:
    parts = key.split("-")
    shown = [f"{float(part):.3g}" if part.replace(".", "").isdigit() else part for part in parts]
    return "-".join(shown)
