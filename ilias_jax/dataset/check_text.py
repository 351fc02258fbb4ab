"""A check as people and programs read it: a short table, and JSON."""

import dataclasses
from collections.abc import Collection

from ilias_jax.dataset.check import DatasetCheck

_COLUMNS = ("official", "listed", "found", "missing", "extra", "repeated", "rejected")
_NUM_REASONS = 5


def to_text(check: DatasetCheck, allowed: Collection[str]) -> str:
    """The counts of every split beside the official ones, and each problem in a line."""
    lines = [f"{'subset ' + check.subset:<12}" + "".join(f"{name:>13}" for name in _COLUMNS)]
    for count in check.counts:
        values = (getattr(count, name) for name in _COLUMNS)
        cells = "".join(f"{'-' if value is None else format(value, ','):>13}" for value in values)
        lines.append(f"{count.split:<12}{cells}")
    if check.num_unselected:
        lines.append(f"{check.num_unselected:,} distractors of the shards are not in the subset")
    for reason, number in list(check.reasons().items())[:_NUM_REASONS]:
        lines.append(f"rejected at conversion: {number:,} x {reason}")
    if more := len(check.reasons()) - _NUM_REASONS:
        lines += [f"rejected at conversion: {more:,} other reasons"] if more > 0 else []
    lines += _size(check)
    for problem in check.problems:
        state = "allowed" if problem.name in allowed else "problem"
        lines.append(f"{state}: {problem}")
    if not check.problems:
        how = "every id compared" if check.is_by_id else "only numbers compared"
        lines.append(f"no problem found; {how}")
    return "\n".join(lines)


def _size(check: DatasetCheck) -> list[str]:
    """What follows from counts that are not the official ones."""
    other = [c for c in check.counts if c.listed != c.official and c.listed is not None]
    if not other:
        return []
    return [
        "a different benchmark from published ILIAS: the id files list "
        + ", ".join(f"{c.listed:,} instead of {c.official:,} {c.split}" for c in other)
    ]


def to_document(check: DatasetCheck, allowed: Collection[str]) -> dict[str, object]:
    """The whole check in plain values, every rejected image by name."""
    return {
        "schema": 1,
        "passed": not check.failures(allowed),
        "subset": check.subset,
        "compared": "ids" if check.is_by_id else "numbers",
        "counts": {count.split: dataclasses.asdict(count) for count in check.counts},
        "num_unselected": check.num_unselected,
        "problems": [
            {**dataclasses.asdict(problem), "allowed": problem.name in allowed}
            for problem in check.problems
        ],
        "reasons": check.reasons(),
        "rejected": check.rejected,
    }
