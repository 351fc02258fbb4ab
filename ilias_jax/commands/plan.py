"""`ilias-jax plan`: what a recipe's run will take, before anything is downloaded."""

import argparse
import json
import pathlib
import shutil
import sys
from typing import TYPE_CHECKING

from ilias_jax.errors import UserError

if TYPE_CHECKING:
    from ilias_jax.plan.constants import Calibration
    from ilias_jax.plan.recipe import Recipe


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Defines the command and its flags; --config.KEY=VALUE is read as main.py reads it."""
    parser = commands.add_parser(
        "plan",
        help="predict bytes, memory, disk and hours of a recipe",
        usage="ilias-jax plan --config FILE[:ARGUMENT] [--config.KEY=VALUE ...] [options]",
        allow_abbrev=False,
    )
    parser.add_argument("--config", help="the recipe, as for main.py")
    parser.add_argument("--devices", type=int, help="of the run; those at hand by default")
    parser.add_argument(
        "--calibrate_seconds", type=float, default=20.0, help="to measure, compilation apart"
    )
    parser.add_argument("--folder", default=".", help="whose disk is measured")
    parser.add_argument("--constants", help="measured before, here or elsewhere: measures nothing")
    parser.add_argument("--save_constants", help="file for what was measured")
    parser.add_argument("--network_mb_s", type=float, default=100.0, help="of the download, MB/s")
    parser.add_argument("--output", help="the plan as JSON")
    parser.set_defaults(run=run, rest=[])


def run(arguments: argparse.Namespace) -> None:
    """Measures or reads constants, predicts, prints."""
    from etils import epath

    from ilias_jax import atomic, preflight
    from ilias_jax.plan import document, text
    from ilias_jax.plan.predict import predict
    from ilias_jax.plan.recipe import read_recipe
    from ilias_jax.plan.sizes import sizes_of
    from ilias_jax.plan.stages import Assumptions, check_devices
    from ilias_jax.recipes import read_words

    for name in ("calibrate_seconds", "network_mb_s"):
        value = getattr(arguments, name)
        if not 0 < value < float("inf"):
            raise UserError(f"--{name} {value} must be above 0")
    if arguments.constants and arguments.save_constants:
        raise UserError("--save_constants is for what is measured; with --constants nothing is")
    given = [] if arguments.config is None else [f"--config={arguments.config}"]
    recipe = read_recipe(read_words("ilias-jax plan", [*given, *arguments.rest]))
    if arguments.devices is not None:
        check_devices(arguments.devices, recipe.config.mesh.model_partitions)
    for flag in ("output", "save_constants"):
        if path := getattr(arguments, flag):
            preflight.check_writable(epath.Path(path).parent, f"--{flag}")
    calibration = _calibration(arguments, recipe)
    assumed = Assumptions(
        arguments.devices or calibration.constants.num_devices, 1e6 * arguments.network_mb_s
    )
    plans = [
        (sizes, predict(recipe, sizes, calibration.constants, assumed))
        for sizes in sizes_of(recipe.config.dataset.world)
    ]
    # Of another machine's disk this one knows nothing.
    free = None if arguments.constants else shutil.disk_usage(pathlib.Path(arguments.folder)).free
    print(text.render(recipe, calibration, assumed, plans, free))
    if arguments.output:
        made = document.make(recipe, calibration, assumed, plans, free)
        content = json.dumps(made, indent=1, allow_nan=False) + "\n"
        atomic.write_bytes(epath.Path(arguments.output), content.encode())
    if arguments.save_constants:
        calibration.save(epath.Path(arguments.save_constants))


def _calibration(arguments: argparse.Namespace, recipe: "Recipe") -> "Calibration":
    """The constants of a file, or new ones."""
    from etils import epath

    from ilias_jax.plan import constants

    if arguments.constants:
        return constants.load(epath.Path(arguments.constants), recipe.config)
    from ilias_jax import preflight
    from ilias_jax.mesh import make_mesh
    from ilias_jax.plan import calibrate

    if "://" in arguments.folder:
        raise UserError(
            f"--folder {arguments.folder}: a local folder is measured; name one on the disk that "
            "the run will use"
        )
    preflight.check_writable(epath.Path(arguments.folder), "--folder")
    mesh = make_mesh(recipe.config.mesh.model_partitions)

    def tell(what: str) -> None:
        print(f"measuring: {what}", file=sys.stderr, flush=True)

    folder = pathlib.Path(arguments.folder)
    return calibrate.measure(recipe, mesh, folder, arguments.calibrate_seconds, tell)
