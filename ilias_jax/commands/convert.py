"""`ilias-jax convert`: official data to ArrayRecord shards."""

import argparse
import os
import pathlib
import sys

from ilias_jax.config import path_flag
from ilias_jax.errors import UserError


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser("convert", help="convert official data to ArrayRecord shards")
    parser.add_argument(
        "--root", type=path_flag, required=True, help="folder in the official layout"
    )
    parser.add_argument(
        "--data_dir", type=path_flag, required=True, help="folder of the shards; may be ROOT"
    )
    parser.add_argument(
        "--processes", type=int, default=os.cpu_count() or 1, help="tars converted at once"
    )
    parser.add_argument("--tars", help="only these tars, such as 0:50 or 3,7 or a name")
    parser.add_argument(
        "--core", type=path_flag, nargs="+", default=[], help="core folder or core tars"
    )
    parser.add_argument(
        "--distractors",
        type=path_flag,
        nargs="+",
        default=[],
        help="distractor tars or folders of them",
    )
    parser.add_argument("--without_text", action="store_true", help="leave text queries out")
    parser.add_argument("--runner", help="run tars by Apache Beam on this runner")
    parser.add_argument(
        "--beam_options",
        default="",
        help="further options of the pipeline: --beam_options='--direct_num_workers=4 ...'",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    from etils import epath

    from ilias_jax.dataset.convert import convert
    from ilias_jax.files import check_writable

    if arguments.processes < 1:
        raise UserError(f"--processes {arguments.processes} must be at least 1")
    if arguments.beam_options and not arguments.runner:
        raise UserError("--beam_options needs --runner, such as --runner DirectRunner")
    check_writable(epath.Path(arguments.data_dir), "--data_dir")
    execute = None
    if arguments.runner:
        try:
            from ilias_jax.dataset.beam import executor
        except ModuleNotFoundError as error:
            raise UserError(f"--runner: {error}; pip install 'ilias-jax[beam]'") from error
        execute = executor(arguments.runner, arguments.beam_options)
    try:
        report = convert(
            pathlib.Path(arguments.root),
            pathlib.Path(arguments.data_dir),
            arguments.processes,
            core_paths=[pathlib.Path(path) for path in arguments.core],
            distractor_paths=[pathlib.Path(path) for path in arguments.distractors],
            tars=arguments.tars,
            without_text=arguments.without_text,
            execute=execute,
        )
    except OSError as error:
        raise UserError(f"{error}; mend that, then run the same command to go on") from error
    except KeyboardInterrupt:
        print("interrupted; run the same command to go on", file=sys.stderr)
        sys.exit(130)
    for line in report.lines():
        print(line)
