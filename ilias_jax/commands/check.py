"""`ilias-jax check`: a data folder against the official id files."""

import argparse
import json
import sys

from ilias_jax.config import ALLOWANCES, require_allowances
from ilias_jax.errors import UserError


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Defines the command and its flags."""
    parser = commands.add_parser(
        "check",
        help="compare a data folder with the official id files",
        description="Exits with 0 if nothing is wrong that --allow does not name, with 1 if not.",
        epilog="--allow takes: "
        + "; ".join(f"{name} ({meaning})" for name, meaning in ALLOWANCES.items())
        + ". Queries and positives have none: mAP is a mean over all of them.",
    )
    parser.add_argument("--data_dir", required=True, help="folder or bucket with ilias/")
    parser.add_argument("--subset", choices=("full", "mini"), default="full", help="distractors")
    parser.add_argument("--allow", nargs="+", default=[], metavar="NAME", help="see below")
    parser.add_argument("--deep", action="store_true", help="read every record of the shards too")
    parser.add_argument("--read_threads", type=int, default=4, help="threads of --deep")
    parser.add_argument("--output", help="JSON file to write: the counts, all rejected images")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Checks a data folder and prints what was found."""
    from etils import epath

    from ilias_jax import atomic
    from ilias_jax.dataset.check import check_dataset
    from ilias_jax.dataset.check_text import to_document, to_text
    from ilias_jax.dataset.reader import IliasDataset
    from ilias_jax.ground_truth import read_ground_truth

    allowed = [name for names in arguments.allow for name in names.split(",") if name]
    require_allowances(allowed, "--allow")
    if arguments.read_threads < 1:
        raise UserError(f"--read_threads {arguments.read_threads} must be at least 1")
    dataset = IliasDataset(epath.Path(arguments.data_dir), arguments.subset)
    truth = read_ground_truth(dataset.data_dir)
    check = check_dataset(dataset, truth, arguments.read_threads if arguments.deep else None)
    if arguments.output:
        text = json.dumps(to_document(check, allowed), indent=1) + "\n"
        atomic.write_bytes(epath.Path(arguments.output), text.encode())
    print(to_text(check, allowed))
    if check.failures(allowed):
        sys.exit(1)
