"""What must hold before the lists of a file may be scored, and what an allowance does instead.

The official evaluator passes over most of these without a word. Here each is an error with a name,
and a user who allows it by name is told what it does to the numbers.
"""

import itertools
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import NamedTuple

import numpy as np

from ilias_jax.errors import UserError
from ilias_jax.ground_truth import GroundTruth
from ilias_jax.metrics.list_repairs import best_of_repeated, joined_queries
from ilias_jax.similarity_lists import SimilarityLists

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


class CheckedLists(NamedTuple):
    """What may be scored.

    Attributes:
        lists: "image" or "text" -> its lists, each query once.
        notes: what was found and allowed, a sentence each.
    """

    lists: dict[str, SimilarityLists]
    notes: tuple[str, ...]


class _Findings:
    """Collects all that is wrong, so that one message names it all."""

    def __init__(self) -> None:
        self.found: dict[str, str] = {}

    def add(self, name: str, number: int, what: str, examples: Iterable[str]) -> bool:
        """Notes a finding if there is any; returns whether there is."""
        if number:
            first = list(examples)[:4]
            shown = ", ".join([*map(repr, first[:3]), *(["..."] if number > 3 else [])])
            self.found[name] = f"{number:,} {what} ({shown})"
        return number > 0

    def enforce(self, allowed: Collection[str]) -> tuple[str, ...]:
        """Returns the notes on what is allowed; raises UserError if something else was found."""
        refused = {name: what for name, what in self.found.items() if name not in allowed}
        if refused:
            lines = [
                f"  {what}\n    --allow {name}: {ALLOWANCES[name]}"
                for name, what in refused.items()
            ]
            raise UserError("similarities: nothing was scored, because of\n" + "\n".join(lines))
        return tuple(f"{what}; allowed: {ALLOWANCES[name]}" for name, what in self.found.items())


def check_allowances(allowed: Collection[str]) -> None:
    """Raises UserError for a name that is no allowance."""
    if unknown := sorted(set(allowed) - set(ALLOWANCES)):
        raise UserError(f"--allow {unknown[0]!r}: no such name; choose of {', '.join(ALLOWANCES)}")


def check_lists(
    lists: SimilarityLists,
    ground_truth: GroundTruth,
    k: int,
    allowed: Collection[str] = (),
    find_distractors: Callable[[set[str]], tuple[set[str], int]] | None = None,
) -> CheckedLists:
    """Checks the lists of a file and makes them fit to be scored, as far as that is allowed.

    Args:
        lists: as read.
        ground_truth: the labels.
        k: the cut.
        allowed: names of `ALLOWANCES`.
        find_distractors: given ids, returns those that are no distractors and the number of all
            distractors; without it, whatever looks like a distractor, `<file>.tar/<key>`, is one.

    Raises:
        UserError: something was found that is not allowed; one message for all of it.
    """
    check_allowances(allowed)
    findings = _Findings()
    lists = _known_queries(lists, ground_truth, findings)
    lists, repeated = joined_queries(lists)
    findings.add("repeated_queries", len(repeated), "queries with several lists", repeated)
    lists = _finite(lists, findings)
    lists = _single(lists, findings)
    num_distractors = _check_database_ids(lists, ground_truth, findings, find_distractors)
    kinds = _kinds(lists, ground_truth, findings)
    num_database = len(ground_truth.positive_ids) + num_distractors
    _check_lengths(lists, min(k, num_database), findings)
    return CheckedLists(kinds, findings.enforce(allowed))


def _known_queries(
    lists: SimilarityLists, ground_truth: GroundTruth, findings: _Findings
) -> SimilarityLists:
    known = {*ground_truth.image_query_ids, *ground_truth.text_query_ids}
    unknown = [query for query in lists.query_ids if query not in known]
    findings.add("unknown_queries", len(unknown), "queries that the id files do not have", unknown)
    if not lists.query_ids:
        raise UserError("similarities: no query in the files; expected image or text queries")
    if len(unknown) == len(lists.query_ids):
        raise UserError(
            f"similarities: none of the {len(unknown)} queries {unknown[:3]} is in the id files; "
            "expected official image or text query ids: do the files belong to another dataset?"
        )
    return lists.take([n for n, query in enumerate(lists.query_ids) if query in known])


def _finite(lists: SimilarityLists, findings: _Findings) -> SimilarityLists:
    finite = np.isfinite(lists.scores)
    places = np.flatnonzero(~finite)
    found = findings.add(
        "non_finite_scores", places.size, "scores that are NaN or infinite", _names(lists, places)
    )
    return lists.keep(finite) if found else lists


def _single(lists: SimilarityLists, findings: _Findings) -> SimilarityLists:
    best = best_of_repeated(lists)
    places = np.flatnonzero(~best)
    found = findings.add(
        "repeated_database_ids",
        places.size,
        "entries whose id is in the same list already",
        _names(lists, places),
    )
    return lists.keep(best) if found else lists


def _check_database_ids(
    lists: SimilarityLists,
    ground_truth: GroundTruth,
    findings: _Findings,
    find_distractors: Callable[[set[str]], tuple[set[str], int]] | None,
) -> int:
    """Notes unknown ids and returns how many distractors there are at least."""
    others = set(lists.database_ids) - set(ground_truth.positive_ids)
    what = "database ids that are neither a positive nor `<file>.tar/<key>`"
    if find_distractors is None:
        unknown = set(itertools.filterfalse(_DISTRACTOR.match, others))
        num_distractors = len(others) - len(unknown)
    else:
        what = "database ids that are neither a positive nor in distractor_ids.txt.gz"
        unknown, num_distractors = find_distractors(others)
    findings.add("unknown_database_ids", len(unknown), what, sorted(unknown))
    return num_distractors


def _kinds(
    lists: SimilarityLists, ground_truth: GroundTruth, findings: _Findings
) -> dict[str, SimilarityLists]:
    """Splits the lists by query kind and notes what is missing of each."""
    known = {"image": ground_truth.image_query_ids, "text": ground_truth.text_query_ids}
    kinds, missing, wanted = {}, [], []
    for kind, ids in known.items():
        members = set(ids)
        numbers = [n for n, query in enumerate(lists.query_ids) if query in members]
        if numbers:
            kinds[kind] = lists.take(numbers)
            missing += sorted(members - set(kinds[kind].query_ids))
            wanted.append(f"{len(ids):,} {kind} queries")
    findings.add("missing_queries", len(missing), f"of {' and '.join(wanted)} missing", missing)
    if len(kinds) > 1:
        sizes = [f"{len(part.query_ids)} {kind} queries" for kind, part in kinds.items()]
        examples = [part.query_ids[0] for part in kinds.values()]
        findings.add("mixed_kinds", 2, f"query kinds in one result: {', '.join(sizes)}", examples)
    return kinds


def _check_lengths(lists: SimilarityLists, needed: int, findings: _Findings) -> None:
    short = np.flatnonzero(lists.lengths < needed)
    if short.size:
        what = f"lists of fewer than {needed:,} entries, the shortest of {lists.lengths.min():,}"
        findings.add("short_lists", short.size, what, (lists.query_ids[n] for n in short[:4]))


def _names(lists: SimilarityLists, places: np.ndarray) -> list[str]:
    """The first few of these entries as `database id of query`."""
    rows = np.searchsorted(lists.offsets, places[:4], side="right") - 1
    return [
        f"{lists.database_ids[lists.entries[place]]} of {lists.query_ids[row]}"
        for place, row in zip(places[:4], rows, strict=True)
    ]
