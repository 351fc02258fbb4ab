"""`ilias-jax check`: a data folder against the official id files."""

import argparse
import dataclasses
import json
import sys
from collections.abc import Collection
from typing import TYPE_CHECKING

from ilias_jax.config import ALLOWANCES, path_flag, require_allowances
from ilias_jax.errors import UserError

if TYPE_CHECKING:
    from ilias_jax.dataset.check import DatasetCheck

_COLUMNS = ("official", "listed", "found", "missing", "extra", "repeated", "rejected")
_NUM_REASONS = 5  # in the text


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "check",
        help="compare a data folder with the official id files",
        description="Exits with 0 if nothing is wrong that --allow does not name, with 1 if not.",
        epilog="--allow takes: "
        + "; ".join(f"{name} ({meaning})" for name, meaning in ALLOWANCES.items())
        + ". Queries and positives have none: mAP is a mean over all of them.",
    )
    parser.add_argument(
        "--data_dir", type=path_flag, required=True, help="folder or bucket with ilias/"
    )
    parser.add_argument("--subset", choices=("full", "mini"), default="full", help="distractors")
    parser.add_argument("--allow", nargs="+", default=[], metavar="NAME", help="see below")
    parser.add_argument("--deep", action="store_true", help="read every record of the shards too")
    parser.add_argument("--read_threads", type=int, default=4, help="threads of --deep")
    parser.add_argument(
        "--output", type=path_flag, help="JSON file to write: the counts, all rejected images"
    )
    parser.set_defaults(run=run)


def _to_text(check: "DatasetCheck", ignore: Collection[str]) -> str:
    """The counts of every split beside the official ones, and each problem in a line."""
    lines = [f"{'subset ' + check.subset:<12}" + "".join(f"{name:>13}" for name in _COLUMNS)]
    for count in check.counts:
        values = (getattr(count, name) for name in _COLUMNS)
        cells = (f"{'-' if value is None else format(value, ','):>13}" for value in values)
        lines.append(f"{count.split:<12}" + "".join(cells))
    if check.num_unselected:
        lines.append(f"{check.num_unselected:,} distractors of the shards are not in the subset")
    reasons = check.reasons()
    for reason, number in list(reasons.items())[:_NUM_REASONS]:
        lines.append(f"rejected at conversion: {number:,} x {reason}")
    if len(reasons) > _NUM_REASONS:
        lines.append(f"rejected at conversion: {len(reasons) - _NUM_REASONS:,} other reasons")
    other = [c for c in check.counts if c.listed != c.official and c.listed is not None]
    if other:
        sizes = (f"{c.listed:,} instead of {c.official:,} {c.split}" for c in other)
        lines.append(
            "a different benchmark from published ILIAS: the id files list " + ", ".join(sizes)
        )
    for problem in check.problems:
        lines.append(f"{'allowed' if problem.name in ignore else 'problem'}: {problem}")
    if not check.problems:
        compared = "every id compared" if check.is_by_id else "only numbers compared"
        lines.append(f"no problem found; {compared}")
    return "\n".join(lines)


def _to_document(check: "DatasetCheck", ignore: Collection[str]) -> dict[str, object]:
    return {
        "schema": 1,
        "passed": not check.failures(ignore),
        "subset": check.subset,
        "compared": "ids" if check.is_by_id else "numbers",
        "counts": {count.split: dataclasses.asdict(count) for count in check.counts},
        "num_unselected": check.num_unselected,
        "problems": [
            {**dataclasses.asdict(problem), "allowed": problem.name in ignore}
            for problem in check.problems
        ],
        "reasons": check.reasons(),
        "rejected": check.rejected,
    }


def run(arguments: argparse.Namespace) -> None:
    from etils import epath

    from ilias_jax import files
    from ilias_jax.dataset import layout
    from ilias_jax.dataset.check import check_dataset
    from ilias_jax.dataset.ground_truth import read_ground_truth
    from ilias_jax.dataset.reader import IliasDataset

    ignore = [name for names in arguments.allow for name in names.split(",") if name]
    require_allowances(ignore, "--allow")
    if arguments.read_threads < 1:
        raise UserError(f"--read_threads {arguments.read_threads} must be at least 1")
    if arguments.output:
        files.check_output(arguments.output, layout.folders(arguments.data_dir))
    dataset = IliasDataset(epath.Path(arguments.data_dir), arguments.subset)
    truth = read_ground_truth(dataset.data_dir)
    check = check_dataset(dataset, truth, arguments.read_threads if arguments.deep else None)
    print(_to_text(check, ignore))
    if arguments.output:
        text = json.dumps(_to_document(check, ignore), indent=1) + "\n"
        files.write_bytes(epath.Path(arguments.output), text.encode())
    if check.failures(ignore):
        sys.exit(1)
