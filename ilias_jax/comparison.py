"""Two finished runs side by side: the paired difference of every number they share."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from ilias_jax.errors import UserError
from ilias_jax.ground_truth import object_of
from ilias_jax.metrics.paired import PairedInputs, paired_differences
from ilias_jax.scored_run import ScoredRun, SectionScores

_MAP = ("map", "map")
_GROUPINGS = ("scale", "clutter")


def warnings(a: ScoredRun, b: ScoredRun) -> list[str]:
    """What makes the two runs different benchmarks, or leaves that open; said before any number."""
    found = []
    if None in (a.k, b.k):
        found.append(f"k is not known (A: {a.k}, B: {b.k}); make sure that it is the same")
    elif a.k != b.k:
        found.append(f"DIFFERENT BENCHMARKS: A has k={a.k}, B has k={b.k}")
    if a.database is None or b.database is None:
        silent = " and ".join(name for name, run in (("A", a), ("B", b)) if run.database is None)
        found.append(f"{silent} does not say what was searched; make sure that it is the same")
    else:
        different = {
            key: (a.database[key], b.database[key])
            for key in a.database
            if a.database[key] != b.database[key]
        }
        words = ", ".join(f"{key}: A {x}, B {y}" for key, (x, y) in different.items())
        if different:
            found.append(
                f"DIFFERENT BENCHMARKS: other databases were searched ({words}); a smaller one is "
                "easier, and the difference below is not that of the models"
            )
    return found


def compare_runs(
    a: ScoredRun,
    b: ScoredRun,
    objects: Mapping[str, tuple[str, str]] | None = None,
    *,
    num_resamples: int = 10_000,
    num_permutations: int = 10_000,
    seed: int = 0,
) -> dict[str, Any]:
    """Compares two runs, b minus a, queries matched by id.

    Args:
        a: one run.
        b: another over the same queries.
        objects: object -> (coarse, mid) category; by default what the runs say.
        num_resamples: of the bootstrap over objects, at least 40.
        num_permutations: of the randomisation test over objects, at least 1.
        seed: of both, in [0, 2**32).

    Returns:
        Plain values: the runs, `warnings`, `notes` on what could not be compared, the settings,
        and by section `map`, `scale`, `clutter`, `categories` and `subcategories` -> key -> a, b,
        difference, ci95 (percentage points), p_value and count.

    Raises:
        UserError: the runs have no section in common, other queries, or another taxonomy.
    """
    shared = [name for name in a.sections if name in b.sections]
    if not shared:
        raise UserError(
            f"{a.place} has {', '.join(a.sections)}, {b.place} has {', '.join(b.sections)}: "
            "nothing to compare"
        )
    notes = [f"{name}: in one run only" for name in sorted(set(a.sections) ^ set(b.sections))]
    taxonomy = _merge(a, b) if objects is None else dict(objects)
    sections = {}
    for name in shared:
        statistics, missing = _statistics(name, a.sections[name], b.sections[name], taxonomy)
        notes += missing
        sections[name] = _compare(statistics, num_resamples, num_permutations, seed)
    return {
        "format": "ilias-jax comparison 1",
        **{key: _describe(run) for key, run in (("a", a), ("b", b))},
        "warnings": warnings(a, b),
        "notes": list(dict.fromkeys(notes)),
        "settings": {
            "num_resamples": num_resamples,
            "num_permutations": num_permutations,
            "seed": seed,
        },
        "sections": sections,
    }


def _describe(run: ScoredRun) -> dict[str, Any]:
    database = None if run.database is None else dict(run.database)
    return {"file": run.place, "model": run.model, "k": run.k, "database": database}


def _merge(a: ScoredRun, b: ScoredRun) -> dict[str, tuple[str, str]]:
    """The categories that the runs give their objects."""
    other = [name for name in a.objects if b.objects.get(name, a.objects[name]) != a.objects[name]]
    if other:
        raise UserError(
            f"{len(other)} objects have another category in {a.place} than in {b.place}, first "
            f"{other[0]}; name the taxonomy that holds with --taxonomy"
        )
    return {**a.objects, **b.objects}


class _Statistics(NamedTuple):
    """Names of the statistics of one section and the arrays that they are computed from."""

    names: list[tuple[str, str]]
    inputs: PairedInputs


def _statistics(
    section: str, a: SectionScores, b: SectionScores, objects: Mapping[str, tuple[str, str]]
) -> tuple[_Statistics, list[str]]:
    """The arrays of one section, and what is missing for more."""
    queries = sorted(a.aps)
    _check_same(section, a.aps, b.aps)
    names, rows, notes = [_MAP], [(a.aps, b.aps)], []
    for group in _GROUPINGS:
        keys_a, keys_b = a.group_aps.get(group), b.group_aps.get(group)
        if not keys_a or not keys_b:
            silent = " and ".join(n for n, found in (("A", keys_a), ("B", keys_b)) if not found)
            notes.append(f"by {group}: {silent} has no APs by group")
            continue
        _check_same(f"{section}, {group}", keys_a, keys_b, "groups")
        for key in keys_a:
            _check_same(f"{section}, {group} {key}", keys_a[key], keys_b[key])
            names.append((group, key))
            rows.append((keys_a[key], keys_b[key]))
    owners = [object_of(query) for query in queries]
    categories, keys = _categories(sorted(set(owners)), objects)
    if not keys:
        notes.append("by category: the runs do not say it for every object; name --taxonomy")
    numbers = {name: number for number, name in enumerate(sorted(set(owners)))}
    ours, theirs = (
        np.array([[row[run].get(query, np.nan) for query in queries] for row in rows])
        for run in (0, 1)
    )
    query_object = np.array([numbers[owner] for owner in owners], np.int32)
    inputs = PairedInputs(ours, theirs, query_object, categories)
    return _Statistics([*names, *keys], inputs), notes


def _check_same(
    what: str, a: Mapping[str, object], b: Mapping[str, object], things: str = "queries"
) -> None:
    """Raises UserError unless both mappings have the same keys."""
    only = [sorted(set(a) - set(b)), sorted(set(b) - set(a))]
    if any(only):
        words = ", ".join(
            f"{len(names)} only in {run} ({', '.join(names[:2])}{', ...' * (len(names) > 2)})"
            for run, names in zip("AB", only, strict=True)
            if names
        )
        raise UserError(
            f"{what}: A has {len(a):,} {things}, B has {len(b):,}; {words}. A paired difference "
            f"needs the same {things} in both runs"
        )


def _categories(
    names: list[str], objects: Mapping[str, tuple[str, str]]
) -> tuple[np.ndarray, list[tuple[str, str]]]:
    """[O, C] bool membership of the objects and the C names; none if an object has no category."""
    if any(name not in objects for name in names):
        return np.zeros((len(names), 0), bool), []
    paths = [("categories", objects[name][0]) for name in names]
    finer = [("subcategories", "-".join(objects[name])) for name in names]
    keys = [*sorted(set(paths)), *sorted(set(finer))]
    return np.array([[key in own for key in keys] for own in zip(paths, finer, strict=True)]), keys


def _compare(
    statistics: _Statistics, num_resamples: int, num_permutations: int, seed: int
) -> dict[str, dict[str, Any]]:
    """Results by grouping and key, in the order of the statistics."""
    found = paired_differences(statistics.inputs, num_resamples, num_permutations, seed)
    result: dict[str, dict[str, Any]] = {}
    columns = (column.tolist() for column in found)
    for (group, key), *values in zip(statistics.names, *columns, strict=True):
        a, b, difference, low, high, p_value, count = values
        result.setdefault(group, {})[key] = {
            "a": a,
            "b": b,
            "difference": difference,
            "ci95": [low, high],
            "p_value": p_value,
            "count": int(count),
        }
    return {**result, "map": result["map"]["map"]}
