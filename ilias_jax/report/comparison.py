"""A comparison as text for a terminal: warnings before numbers."""

from collections.abc import Iterator, Mapping
from typing import Any

from ilias_jax.report import labels

_COLUMNS = "{:<42} {:>7} {:>7} {:>7}  {:<16} {:>7}  {}"


def to_text(document: Mapping[str, Any], *, subcategories: bool = False) -> str:
    """The lines that `ilias-jax compare` prints.

    Args:
        document: what `compare_runs` returns.
        subcategories: whether to list them.
    """
    lines = [f"WARNING: {warning}" for warning in document["warnings"]]
    for name in ("a", "b"):
        lines.append(f"{name.upper()}: {_run_line(document[name])}")
    settings = document["settings"]
    lines.append(
        "Percent; B - A in percentage points with 95 % intervals from "
        f"{settings['num_resamples']:,} resamples of objects; p from "
        f"{settings['num_permutations']:,} random exchanges of A and B by object (seed "
        f"{settings['seed']}), two-sided, not corrected for the number of rows."
    )
    for section, result in document["sections"].items():
        lines += ["", *_section(section, result, document["a"]["k"], subcategories)]
    return "\n".join([*lines, *(f"note: {note}" for note in document["notes"])])


def _run_line(run: Mapping[str, Any]) -> str:
    words = [str(run["file"])]
    if run["model"]:
        words.append(str(run["model"]))
    if run["database"]:
        words.append(f"on {run['database']['name']}")
    return ", ".join(words)


def _section(
    section: str, result: Mapping[str, Any], k: int | None, subcategories: bool
) -> Iterator[str]:
    yield _COLUMNS.format(
        labels.SECTION_NAMES[section], "A", "B", "B - A", "95 % interval", "p", "n"
    )
    yield _row("mAP" if k is None else f"mAP@{k}", result["map"], "queries")
    for group, grouping in labels.GROUPINGS.items():
        if group == "subcategories" and not subcategories:
            continue
        for key in labels.group_order(group, {section: _values(result, group)}):
            label = f"{grouping.column.lower()} {labels.group_label(group, key)}"
            yield _row(label, result[group][key], grouping.unit)


def _values(result: Mapping[str, Any], group: str) -> dict[str, dict[str, float]]:
    return {group: {key: numbers["a"] for key, numbers in result.get(group, {}).items()}}


def _row(name: str, numbers: Mapping[str, Any], unit: str) -> str:
    low, high = numbers["ci95"]
    return _COLUMNS.format(
        name if len(name) <= 42 else name[:41] + "…",
        f"{numbers['a']:.2f}",
        f"{numbers['b']:.2f}",
        f"{numbers['difference']:+.2f}",
        f"{low:+.2f} to {high:+.2f}",
        f"{numbers['p_value']:.4f}",
        f"{numbers['count']:,} {unit}",
    )
