"""The command line: `ilias-jax` with its subcommands, and what main.py shares with them.

JAX is imported by what needs it, so that `--help` and a misspelt flag are answered at once.
"""

import argparse
import logging
import os
import pathlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from absl import logging as absl_logging

from ilias_jax.commands import (
    adapt,
    check,
    compare,
    convert,
    download,
    evaluate,
    export,
    models,
    plan,
    search,
    texts,
    world,
)
from ilias_jax.errors import UserError, printable

# In the order in which a newcomer needs them.
_COMMANDS = (
    world,
    download,
    convert,
    check,
    plan,
    evaluate,
    models,
    adapt,
    texts,
    search,
    export,
    compare,
)
_DAYS_TO_WAIT = 7


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="ilias-jax", description="Runs the ILIAS benchmark.")
    commands = parser.add_subparsers(dest="command", required=True)
    for command in _COMMANDS:
        command.add_parser(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of the console script; a user's mistake prints its message and exits with 1."""
    run(_run_command, argv)


def _run_command(argv: Sequence[str] | None) -> None:
    parser = _parser()
    arguments, rest = parser.parse_known_args(argv)
    # A command that takes a recipe reads the recipe's own flags, --config.KEY=VALUE.
    if rest and not hasattr(arguments, "rest"):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    arguments.rest = rest
    arguments.run(arguments)


def run(main: Callable[[Sequence[str] | None], None], argv: Sequence[str] | None = None) -> None:
    """Runs a program; a user's mistake prints its message alone and exits with 1."""
    _quiet_libraries()
    try:
        main(argv)
        sys.stdout.flush()
    except UserError as error:
        _fail(str(error))
    except OSError as error:
        from ilias_jax.files import FULL

        if error.filename is None and error.errno not in FULL:  # nothing that a user could look at
            raise
        if error.filename is None:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # Python prints the rest at its exit
        _fail(f"{error.filename or 'the output or the temporary folder'}: {error.strerror}")


def _fail(message: str) -> NoReturn:
    print(f"error: {printable(message)}", file=sys.stderr)
    sys.exit(1)


def _quiet_libraries() -> None:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    absl_logging.set_verbosity(absl_logging.WARNING)
    logging.getLogger("jax").setLevel(logging.WARNING)


def join_hosts(coordinator: str | None, num_processes: int | None, process_id: int | None) -> None:
    """Makes this process one of several; see `jax.distributed.initialize`.

    Raises:
        UserError: the three values are not there and the cluster does not give them either.
    """
    import jax

    try:
        # The other processes are done when the shards are; they wait for the first one's report.
        jax.distributed.initialize(
            coordinator, num_processes, process_id, shutdown_timeout_seconds=_DAYS_TO_WAIT * 86_400
        )
    except ValueError as error:
        raise UserError(
            f"--distributed: {error}; give --coordinator, --num_processes and --process_id"
        ) from error


def keep_compilations() -> None:
    """Keeps compiled programs on disk, so that a run that goes on need not compile them again.

    They lie with the model files; `JAX_COMPILATION_CACHE_DIR` names another folder. Not on CPUs,
    where a program that was compiled for another machine of a shared home may not run.
    """
    import jax

    from ilias_jax.models.hub import cache_folder

    if os.environ.get("JAX_COMPILATION_CACHE_DIR") or jax.default_backend() == "cpu":
        return
    jax.config.update("jax_compilation_cache_dir", os.fspath(cache_folder() / "compilations"))


def default_workdir(recipe: str) -> str:
    """runs/<name of the recipe's file>; `recipe` as --config has it, FILE[:ARGUMENT]."""
    return f"runs/{pathlib.Path(recipe.partition(':')[0]).stem}"


def summarize(document: Mapping[str, Any], workdir: str) -> str:
    """The few lines that end a run."""
    lines = []
    for section, result in document["results"].items():
        key = next(name for name in result if name.startswith("map@"))
        low, high = result["ci95"]
        lines.append(
            f"{section.replace('_', '-')} mAP{key.removeprefix('map')}: {result[key]:.2f} % "
            f"[{low:.2f}, {high:.2f}], {result['num_queries']} queries"
        )
    dataset = document["dataset"]
    counts = f"{dataset['num_distractors']:,} distractors, {dataset['num_rejected']:,} rejected"
    for name in ("missing", "extra"):
        if count := dataset.get(f"num_{name}_distractors"):
            counts += f", {count:,} {name}"
    lines.append(f"database: {dataset['num_positives']:,} positives, {counts}")
    lines.append(f"report: {workdir}/report/index.html")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
