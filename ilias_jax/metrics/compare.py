"""Two finished runs side by side: the paired difference of every number they share.

A run's scores by query are read back from its files. A run is named by its workdir, by its report
folder, by a `report.json`, or by a JSON result with the official keys `queries` and `aps`
(`ilias-jax evaluate --output`), one result or one a section.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from etils import epath

from ilias_jax.dataset.ground_truth import object_of
from ilias_jax.errors import UserError
from ilias_jax.files import read_json
from ilias_jax.metrics.groups import category_members
from ilias_jax.metrics.intervals import paired_differences

SECTIONS = ("image_to_image", "text_to_image", "image_to_image_reranked")
_DATABASE = ("name", "subset", "num_positives", "num_distractors")
_EXPECTED = "expected a workdir, a report folder, a report.json or a result of `ilias-jax evaluate`"


@dataclasses.dataclass(frozen=True)
class SectionScores:
    """The scores of one kind of query in percent.

    `group_aps` has those within the groups by "scale" or "clutter", group and query, for queries
    with a positive in the group; it is empty where the file has none.
    """

    aps: Mapping[str, float]  # query id -> AP@k
    group_aps: Mapping[str, Mapping[str, Mapping[str, float]]]


@dataclasses.dataclass(frozen=True)
class RunScores:
    """The scores of one run by query; None or empty is what the file does not say."""

    path: str  # of the file
    model: str | None  # name
    k: int | None  # the cut
    database: Mapping[str, Any] | None  # its name, subset, numbers of positives and distractors
    sections: Mapping[str, SectionScores]
    objects: Mapping[str, tuple[str, str]]  # object -> (coarse, mid) category


def read_run_scores(path: epath.PathLike) -> RunScores:
    """Reads a run's scores by query.

    Raises:
        UserError: there is no such file, or it holds no scores by query.
    """
    file = find_report(path)
    document = read_json(file, _EXPECTED)
    try:
        return _parse(str(file), document)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{file} holds no scores by query ({error!r}); {_EXPECTED}") from error


def find_report(path: epath.PathLike) -> epath.Path:
    """The file of a run's scores by query; a UserError if a folder has none."""
    path = epath.Path(path)
    if not path.exists():
        raise UserError(f"{path} does not exist; {_EXPECTED}")
    if not path.is_dir():
        return path
    for found in (path / "report.json", path / "report" / "report.json"):
        if found.exists():
            return found
    raise UserError(f"{path} holds neither report.json nor report/report.json; {_EXPECTED}")


def _parse(path: str, document: Mapping[str, Any]) -> RunScores:
    results = document.get("results") or _official(document)
    sections = {name: _section(results[name]) for name in SECTIONS if results.get(name)}
    if not sections:
        raise ValueError(f"neither {' nor '.join(SECTIONS)}")
    dataset = document.get("dataset")
    return RunScores(
        path=path,
        model=(document.get("model") or {}).get("name"),
        k=_cut(document, results),
        database=None if dataset is None else {key: dataset.get(key) for key in _DATABASE},
        sections=sections,
        objects={name: (path[0], path[1]) for name, path in document.get("objects", {}).items()},
    )


def _official(document: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Results with the official keys by section, whether the file holds one or one a section."""
    one = "aps" in document and "queries" in document
    results = [document] if one else [v for v in document.values() if isinstance(v, Mapping)]
    return {SECTIONS[str(r["queries"][0]).endswith(".txt")]: r for r in results if r.get("queries")}


def _cut(document: Mapping[str, Any], results: Mapping[str, Mapping[str, Any]]) -> int | None:
    """k of mAP@k: from the name of the metric, or from a key of its own."""
    for result in results.values():
        for key in result or ():
            if key.startswith("map@"):
                return int(key.removeprefix("map@"))
        if result and "k" in result:
            return int(result["k"])
    return int(document["k"]) if "k" in document else None


def _section(result: Mapping[str, Any]) -> SectionScores:
    """Scores of one result; `aps` is a mapping by query, or a list along `queries`."""
    aps = result["aps"]
    queries = list(aps) if isinstance(aps, Mapping) else result["queries"]
    values = list(aps.values()) if isinstance(aps, Mapping) else aps
    if len(set(queries)) != len(queries):
        raise ValueError(f"{len(queries) - len(set(queries))} queries come twice")
    groups = {
        section: {key: _along(queries, row) for key, row in keys.items()}
        for section, keys in (result.get("group_aps") or {}).items()
    }
    scores = _along(queries, values)
    if len(scores) != len(queries) or not scores:
        raise ValueError("a query has no AP, or there is no query")
    return SectionScores(scores, groups)


def _along(queries: list[str], values: list[float | None]) -> dict[str, float]:
    found = {q: float(v) for q, v in zip(queries, values, strict=True) if v is not None}
    bad = [query for query, value in found.items() if not 0 <= value <= 100.000001]
    if bad or not all(map(math.isfinite, found.values())):
        raise ValueError(f"AP of {bad[:1]} is not in [0, 100] percent")
    return found


def compare_runs(
    a: RunScores,
    b: RunScores,
    objects: Mapping[str, tuple[str, str]] | None = None,
    *,
    num_resamples: int = 10_000,
    num_permutations: int = 10_000,
    seed: int = 0,
) -> dict[str, Any]:
    """Compares two runs, b minus a, queries matched by id.

    Args:
        a, b: runs over the same queries.
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
            f"{a.path} has {', '.join(a.sections)}, {b.path} has {', '.join(b.sections)}: "
            "nothing to compare"
        )
    notes = [f"{name}: in one run only" for name in sorted(set(a.sections) ^ set(b.sections))]
    taxonomy = _merge_objects(a, b) if objects is None else dict(objects)
    settings = {"num_resamples": num_resamples, "num_permutations": num_permutations, "seed": seed}
    sections = {}
    for name in shared:
        pair = a.sections[name], b.sections[name]
        sections[name], missing = _compare(name, *pair, taxonomy, settings)
        notes += missing
    return {
        "format": "ilias-jax comparison 1",
        "a": _describe(a),
        "b": _describe(b),
        "warnings": [*_warnings(a, b)],
        "notes": list(dict.fromkeys(notes)),
        "settings": settings,
        "sections": sections,
    }


def compare_results(
    a: Mapping[str, Any],
    b: Mapping[str, Any],
    objects: Mapping[str, tuple[str, str]],
    *,
    num_resamples: int,
    num_permutations: int,
    seed: int,
) -> dict[str, Any]:
    """Compares two results of one run over the same queries; see `compare_runs`.

    Args:
        a, b: `aps` and `group_aps` as `Metrics.to_dict` has them.
        objects: object -> (coarse, mid) category.
        num_resamples, num_permutations, seed: as there.
    """
    settings = {"num_resamples": num_resamples, "num_permutations": num_permutations, "seed": seed}
    return _compare("re-ranking", _section(a), _section(b), objects, settings)[0]


def _describe(run: RunScores) -> dict[str, Any]:
    return {"file": run.path, "model": run.model, "k": run.k, "database": run.database}


def _warnings(a: RunScores, b: RunScores) -> Iterator[str]:
    """What makes the two runs different benchmarks, or leaves that open."""
    if None in (a.k, b.k):
        yield f"k is not known (A: {a.k}, B: {b.k}); make sure that it is the same"
    elif a.k != b.k:
        yield f"DIFFERENT BENCHMARKS: A has k={a.k}, B has k={b.k}"
    if a.database is None or b.database is None:
        silent = " and ".join(name for name, run in (("A", a), ("B", b)) if run.database is None)
        yield f"{silent} does not say what was searched; make sure that it is the same"
    elif a.database != b.database:
        pairs = ((key, a.database[key], b.database[key]) for key in _DATABASE)
        words = ", ".join(f"{key}: A {x}, B {y}" for key, x, y in pairs if x != y)
        yield (
            f"DIFFERENT BENCHMARKS: other databases were searched ({words}); a smaller one is "
            "easier, and the difference below is not that of the models"
        )


def _merge_objects(a: RunScores, b: RunScores) -> dict[str, tuple[str, str]]:
    other = [name for name in a.objects if b.objects.get(name, a.objects[name]) != a.objects[name]]
    if other:
        raise UserError(
            f"{len(other)} objects have another category in {a.path} than in {b.path}, first "
            f"{other[0]}; name the taxonomy that holds with --taxonomy"
        )
    return {**a.objects, **b.objects}


def _compare(
    section: str,
    a: SectionScores,
    b: SectionScores,
    objects: Mapping[str, tuple[str, str]],
    settings: Mapping[str, int],
) -> tuple[dict[str, Any], list[str]]:
    """Results by grouping and key, and notes on what is missing for more."""
    names, rows, notes = _shared_rows(section, a, b)
    queries = sorted(a.aps)
    owners, query_object = np.unique([object_of(query) for query in queries], return_inverse=True)
    categories = np.zeros((len(owners), 0), bool)
    if all(name in objects for name in owners):
        categories, keys = category_members(owners.tolist(), objects)
        names += keys
    else:
        notes.append("by category: the runs do not say it for every object; name --taxonomy")
    scores = np.array([[[x.get(q, np.nan) for q in queries] for x in row] for row in rows])
    found = paired_differences(
        scores[:, 0], scores[:, 1], query_object.astype(np.int32), categories, **settings
    )
    result: dict[str, Any] = {}
    for number, (group, key) in enumerate(names):
        row = {name: float(column[number]) for name, column in found.items()}
        result.setdefault(group, {})[key] = {
            **{name: row[name] for name in ("a", "b", "difference")},
            "ci95": [row["low"], row["high"]],
            "p_value": row["p_value"],
            "count": int(row["count"]),
        }
    return {**result, "map": result["map"]["map"]}, notes


def _shared_rows(
    section: str, a: SectionScores, b: SectionScores
) -> tuple[list[tuple[str, str]], list[tuple[Mapping[str, float], Mapping[str, float]]], list[str]]:
    """Names and both runs' scores of all queries and of the groups, and notes as above."""
    _check_same(section, a.aps, b.aps)
    names, rows, notes = [("map", "map")], [(a.aps, b.aps)], []
    for group in ("scale", "clutter"):
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
    return names, rows, notes


def _check_same(
    what: str, a: Mapping[str, object], b: Mapping[str, object], things: str = "queries"
) -> None:
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
