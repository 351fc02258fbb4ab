"""The front door's manners: flags, messages for users' mistakes, quiet libraries, a summary."""

import logging
import os
import pathlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from absl import app, flags
from absl import logging as absl_logging
from ml_collections import config_flags

from ilias_jax import recipes
from ilias_jax.errors import UserError
from ilias_jax.towers.files import cache_folder

_DAYS_TO_WAIT = 7


def define_flags() -> tuple[flags.FlagHolder, flags.FlagHolder]:
    """Defines --config and --workdir."""
    return (
        recipes.define_flag(),
        flags.DEFINE_string("workdir", None, "Folder or bucket of the results; runs/<recipe>."),
    )


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


def keep_compilations() -> None:
    """Keeps compiled programs on disk, so that a run that goes on need not compile them again.

    They lie with the model files; `JAX_COMPILATION_CACHE_DIR` names another folder. Not on CPUs,
    where a program that was compiled for another machine of a shared home may not run.
    """
    if os.environ.get("JAX_COMPILATION_CACHE_DIR") or jax.default_backend() == "cpu":
        return
    jax.config.update("jax_compilation_cache_dir", os.fspath(cache_folder() / "compilations"))


def default_workdir() -> str:
    """runs/<name of the recipe>."""
    name = config_flags.get_config_filename(flags.FLAGS["config"])
    return f"runs/{pathlib.Path(name).stem}"


def run(main: Callable[[list[str]], None], argv: Sequence[str] | None = None) -> None:
    """Runs `main` as absl does; a user's mistake prints its message alone and exits with 1."""
    _quiet_libraries()
    try:
        app.run(main, argv=None if argv is None else list(argv), flags_parser=recipes.parse_flags)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


def _quiet_libraries() -> None:
    """Lets warnings through but not the libraries' everyday messages."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    absl_logging.set_verbosity(absl_logging.WARNING)
    logging.getLogger("jax").setLevel(logging.WARNING)


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
