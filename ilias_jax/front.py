"""The front door's manners: flags, messages for users' mistakes, quiet libraries, a summary."""

import logging
import os
import pathlib
import runpy
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
from absl import app, flags
from absl import logging as absl_logging
from ml_collections import config_flags

from ilias_jax.config import BenchmarkConfig, parse, unknown_key
from ilias_jax.errors import UserError

_DAYS_TO_WAIT = 7
_EXAMPLE = "for example --config configs/demo.py"


def define_flags() -> tuple[flags.FlagHolder, flags.FlagHolder]:
    """Defines --config and --workdir."""
    return (
        config_flags.DEFINE_config_file("config", None, f"The recipe, {_EXAMPLE}."),
        flags.DEFINE_string("workdir", None, "Folder or bucket of the results; runs/<recipe>."),
    )


def read_recipe(holder: flags.FlagHolder) -> BenchmarkConfig:
    """The validated configuration of --config with its overrides.

    Raises:
        UserError: no recipe, one that cannot be read, or values that are not allowed.
    """
    try:
        recipe = holder.value
        if recipe is None:
            raise UserError(f"--config is missing; {_EXAMPLE}")
        values = recipe if isinstance(recipe, dict) else recipe.to_dict()
    except OSError as error:
        name = config_flags.get_config_filename(flags.FLAGS["config"])
        raise UserError(f"--config {name} cannot be read; {_EXAMPLE}") from error
    return parse(values)


def refuse_words(words: Sequence[str]) -> None:
    """Raises UserError for arguments that are no flags, such as `config.search.k=5`."""
    if words:
        raise UserError(f"unknown arguments: {' '.join(words)}; flags begin with --")


def join_hosts(coordinator: str | None, num_processes: int | None, process_id: int | None) -> None:
    """Makes this process one of several; see `jax.distributed.initialize`.

    Raises:
        UserError: the three values are not there and the cluster does not give them either.
    """
    try:
        # The other processes are done when the shards are; they wait for the first one's report.
        jax.distributed.initialize(
            coordinator, num_processes, process_id, shutdown_timeout_seconds=_DAYS_TO_WAIT * 86_400
        )
    except ValueError as error:
        raise UserError(
            f"--distributed: {error}; give --coordinator, --num_processes and --process_id"
        ) from error


def default_workdir() -> str:
    """runs/<name of the recipe>."""
    name = config_flags.get_config_filename(flags.FLAGS["config"])
    return f"runs/{pathlib.Path(name).stem}"


def run(main: Callable[[list[str]], None], argv: Sequence[str] | None = None) -> None:
    """Runs `main` as absl does; a user's mistake prints its message alone and exits with 1."""
    _quiet_libraries()
    try:
        app.run(main, argv=None if argv is None else list(argv), flags_parser=_parse_flags)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


def _quiet_libraries() -> None:
    """Lets warnings through but not the libraries' everyday messages."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    absl_logging.set_verbosity(absl_logging.WARNING)
    logging.getLogger("jax").setLevel(logging.WARNING)


def _parse_flags(argv: list[str]) -> list[str]:
    """Parses flags; what absl and ml_collections raise for a user's mistake is a `UserError`."""
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        # An exception in a recipe comes with its traceback; the last line says what is wrong.
        raise UserError(str(error).strip().splitlines()[-1].strip()) from error
    except (AttributeError, KeyError) as error:
        known = list(_paths(_load_recipe(argv)))
        for key in _overrides(argv):
            if key not in known:
                raise UserError(unknown_key(key, known)) from error
        raise


def _load_recipe(argv: Sequence[str]) -> dict[str, Any]:
    """The plain data of --config without its overrides, which ml_collections refused."""
    words = [word.lstrip("-") for word in argv]
    name = next((word.partition("=")[2] for word in words if word.startswith("config=")), None)
    path, _, argument = (name or argv[words.index("config") + 1]).partition(":")
    get_config = runpy.run_path(path)["get_config"]
    return (get_config(argument) if argument else get_config()).to_dict()


def _overrides(argv: Sequence[str]) -> Iterator[str]:
    """Keys of the arguments --config.KEY=VALUE."""
    for argument in argv:
        name = argument.lstrip("-").partition("=")[0]
        if name.startswith("config."):
            yield name.removeprefix("config.")


def _paths(values: Mapping[str, Any], place: str = "") -> Iterator[str]:
    """Dotted paths of all values in nested sections."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _paths(value, f"{place}{key}.")
        else:
            yield place + key


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
