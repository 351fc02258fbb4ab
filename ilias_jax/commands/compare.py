"""`ilias-jax compare`: the paired difference of two runs."""

import argparse
from collections.abc import Iterator, Mapping
from typing import Any

from ilias_jax.config import path_flag
from ilias_jax.errors import UserError

_COLUMNS = "{:<42} {:>7} {:>7} {:>7}  {:<16} {:>7}  {}"


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser("compare", help="say how much two runs differ, and how surely")
    what = "workdir, report folder, report.json, or a result of `ilias-jax evaluate`"
    parser.add_argument("a", type=path_flag, metavar="A", help=what)
    parser.add_argument(
        "b", type=path_flag, metavar="B", help="another over the same queries; B - A is shown"
    )
    parser.add_argument(
        "--taxonomy", type=path_flag, help="taxonomy.json, where the runs do not name categories"
    )
    parser.add_argument("--resamples", type=int, default=10_000, help="of the bootstrap")
    parser.add_argument("--permutations", type=int, default=10_000, help="of the test")
    parser.add_argument("--seed", type=int, default=0, help="of both")
    parser.add_argument("--all", action="store_true", help="show subcategories too")
    parser.add_argument("--output", type=path_flag, help="JSON file to write, with every group")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    from etils import epath

    from ilias_jax import files
    from ilias_jax.dataset.ground_truth import read_taxonomy
    from ilias_jax.metrics.compare import compare_runs, find_report, read_run_scores
    from ilias_jax.report.render import to_json

    for name, least in (("resamples", 40), ("permutations", 1), ("seed", 0)):
        value = getattr(arguments, name)
        if not least <= value < 2**32:
            raise UserError(f"--{name} {value} must be at least {least} and below 2**32")
    paths = [find_report(arguments.a), find_report(arguments.b)]
    if arguments.output:
        files.check_output(arguments.output, filter(None, [*paths, arguments.taxonomy]))
    a, b = map(read_run_scores, paths)
    objects = None
    if arguments.taxonomy:
        taxonomy = read_taxonomy(epath.Path(arguments.taxonomy))
        objects = {name: path[:2] for name, path in taxonomy.items()}
    document = compare_runs(
        a,
        b,
        objects,
        num_resamples=arguments.resamples,
        num_permutations=arguments.permutations,
        seed=arguments.seed,
    )
    print(_to_text(document, arguments.all))
    if arguments.output:
        files.write_bytes(epath.Path(arguments.output), to_json(document).encode())


def _to_text(document: Mapping[str, Any], subcategories: bool) -> str:
    """The lines that are printed of what `compare_runs` returns; warnings come before numbers."""
    lines = [f"WARNING: {warning}" for warning in document["warnings"]]
    lines += [f"{name.upper()}: {_run_line(document[name])}" for name in ("a", "b")]
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
    from ilias_jax.report import labels

    yield _COLUMNS.format(
        labels.SECTION_NAMES[section], "A", "B", "B - A", "95 % interval", "p", "n"
    )
    yield _row("mAP" if k is None else f"mAP@{k}", result["map"], "queries")
    for group, grouping in labels.GROUPINGS.items():
        if group == "subcategories" and not subcategories:
            continue
        values = {key: numbers["a"] for key, numbers in result.get(group, {}).items()}
        for key in labels.group_order(group, {section: {group: values}}):
            label = f"{grouping.column.lower()} {labels.group_label(group, key)}"
            yield _row(label, result[group][key], grouping.unit)


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
