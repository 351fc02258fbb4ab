"""The command line: `ilias-jax` with its subcommands, and what main.py shares with them.

JAX is imported by what needs it, so that `--help` and a misspelt flag are answered at once.
"""

import argparse
import contextlib
import logging
import os
import pathlib
import socket
import sys
import threading
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
    rerank,
    search,
    tune,
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
    search,
    rerank,
    tune,
    export,
    compare,
)
_DAYS_TO_WAIT = 7
_SECONDS_TO_JOIN = 300
# Checks of JAX for developers, and the values that this program is written for: shapes and dtypes
# are promoted, and -inf is the score of what is no candidate.
_JAX_VARIABLES = {
    "jax_numpy_rank_promotion": "allow",
    "jax_numpy_dtype_promotion": "standard",
    "jax_debug_infs": False,
}


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
    if any(name.startswith("JAX_") for name in os.environ):  # some commands need no JAX
        prepare_jax()
    arguments.run(arguments)


def run(main: Callable[[Sequence[str] | None], None], argv: Sequence[str] | None = None) -> None:
    """Runs a program; a user's mistake prints its message alone and exits with 1."""
    _quiet_libraries()
    try:
        main(argv)
        sys.stdout.flush()
    except UserError as error:
        _fail(str(error))
    except KeyboardInterrupt:
        _leave(130, "interrupted; run the same command again to go on")
    except BrokenPipeError:  # `| head` has read enough
        _leave(141)
    except OSError as error:
        from ilias_jax.files import FULL

        if error.filename is None and error.errno not in FULL:  # nothing that a user could look at
            raise
        if error.filename is None:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # Python prints the rest at its exit
        _fail(f"{error.filename or 'the output or the temporary folder'}: {error.strerror}")


def _leave(code: int, message: str = "") -> NoReturn:
    """Ends at once: a program that is being compiled would crash while Python takes itself down."""
    with contextlib.suppress(OSError):  # either may be the pipe that is broken
        sys.stdout.flush()
        print(message, file=sys.stderr, end="\n" if message else "", flush=True)
    os._exit(code)


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
        UserError: the three values are not there and the cluster does not give them either, or are
            not possible.
    """
    import jax

    _check_hosts(coordinator, num_processes, process_id)
    given_up = threading.Timer(_SECONDS_TO_JOIN, _give_up, (coordinator, num_processes, process_id))
    given_up.daemon = True
    given_up.start()
    try:
        jax.distributed.initialize(
            coordinator,
            num_processes,
            process_id,
            # Where it gives up itself, it aborts, and says that another process had died.
            initialization_timeout=2 * _SECONDS_TO_JOIN,
            # The other processes are done when the shards are; they wait for the first's report.
            shutdown_timeout_seconds=_DAYS_TO_WAIT * 86_400,
        )
    except (ValueError, RuntimeError) as error:
        raise UserError(
            f"--distributed: {error}; give --coordinator, --num_processes and --process_id"
        ) from error
    finally:
        given_up.cancel()


def _check_hosts(
    coordinator: str | None, num_processes: int | None, process_id: int | None
) -> None:
    if num_processes is not None and num_processes < 1:
        raise UserError(f"--num_processes={num_processes}; at least 1 is expected")
    if process_id is not None and not 0 <= process_id < (num_processes or process_id + 1):
        raise UserError(f"--process_id={process_id}; 0 to --num_processes - 1 are expected")
    if coordinator is None:
        return
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65_536:
        raise UserError(f"--coordinator={coordinator}; HOST:PORT is expected, as 10.0.0.1:8476")
    if process_id == 0:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            try:
                probe.bind(("", int(port)))
            except OSError as error:
                raise UserError(
                    f"--coordinator={coordinator}: port {port} cannot be opened ({error.strerror});"
                    " name another one to all processes"
                ) from error


def _give_up(coordinator: str | None, num_processes: int | None, process_id: int | None) -> None:
    """Ends this process, whose main thread waits for others and cannot be called back."""
    who = "a process" if process_id is None else f"process {process_id} of {num_processes}"
    where = coordinator or "the cluster's coordinator"
    print(
        f"error: --distributed: {who} has waited {_SECONDS_TO_JOIN} s for the others at {where}; "
        "start all of them, with one --coordinator and --num_processes, which all can reach, and "
        "each with a --process_id of its own",
        file=sys.stderr,
        flush=True,
    )
    os._exit(1)


def prepare_jax() -> None:
    """Makes JAX fit for use; what its variables ask for is looked at before anything is compiled.

    Raises:
        UserError: the devices that `JAX_PLATFORMS` names are not there.
    """
    import jax

    for name, usual in _JAX_VARIABLES.items():
        if (value := getattr(jax.config, name)) != usual:
            logging.warning("%s=%s is not followed: %s is needed", name.upper(), value, usual)
            jax.config.update(name, usual)
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:
        wanted = f"JAX_PLATFORMS={os.environ.get('JAX_PLATFORMS', '')}"
        raise UserError(
            f"{wanted}: JAX has no such devices here ({error or 'none is found'}); unset it to "
            "take what there is, or install JAX for them"
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
