"""`ilias-jax plan`: what a recipe's run will take, before anything is downloaded."""

import argparse
import contextlib
import json
import math
import pathlib
import shutil
import sys
from typing import TYPE_CHECKING

from ilias_jax.config import path_flag
from ilias_jax.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jax.sharding import Mesh

    from ilias_jax.plan.predict import Rates, Recipe, Stage

# A unit, its seconds, and from how many seconds on it is used.
_UNITS = (
    *(("days", 86_400.0, 172_800.0), ("h", 3_600.0, 7_200.0), ("min", 60.0, 120.0)),
    *(("s", 1.0, 1.0), ("ms", 1e-3, 0.0)),
)


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "plan",
        help="predict bytes, memory, disk and hours of a recipe",
        usage="ilias-jax plan --config FILE[:ARGUMENT] [--config.KEY=VALUE ...] [options]",
        allow_abbrev=False,
    )
    parser.add_argument("--config", type=path_flag, help="the recipe, as for main.py")
    parser.add_argument("--devices", type=int, help="of the run; those at hand by default")
    parser.add_argument(
        "--folder", type=path_flag, default=".", help="on the disk of the run, to be measured"
    )
    parser.add_argument("--network_mb_s", type=float, default=100.0, help="of the download, MB/s")
    parser.add_argument("--output", type=path_flag, help="the plan as JSON")
    parser.set_defaults(run=run, rest=[])


def run(arguments: argparse.Namespace) -> None:
    import jax
    from etils import epath

    from ilias_jax import files
    from ilias_jax.config import read_words
    from ilias_jax.mesh import make_mesh
    from ilias_jax.plan import predict as plan
    from ilias_jax.report import manifest

    given = [] if arguments.config is None else [f"--config={arguments.config}"]
    recipe = plan.read_recipe(read_words("ilias-jax plan", [*given, *arguments.rest]))
    databases = plan.sizes_of(recipe.config.dataset.world)
    mesh = make_mesh(recipe.config.mesh.model_partitions)
    num_devices = mesh.size if arguments.devices is None else arguments.devices
    _check(arguments, recipe.config.mesh.model_partitions)
    plan.check_index(recipe, databases)
    rates = _measure(recipe, mesh, pathlib.Path(arguments.folder))
    network = 1e6 * arguments.network_mb_s
    plans = {one.name: plan.predict(recipe, one, rates, num_devices, network) for one in databases}
    machine, is_host = manifest.machine(), jax.default_backend() == "cpu"
    device_bytes = (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit", math.inf)
    room = shutil.disk_usage(arguments.folder).free, manifest.memory_bytes(), device_bytes
    misfits = plan.misfits(plans, is_host, room)
    described = _describe(recipe, rates, num_devices, network)
    tables = {name: [*stages, plan.total(stages)] for name, stages in plans.items()}
    for one in databases:
        counts = f"{one.positives:,} positives and {one.distractors:,} distractors"
        print(f"{one.name}: {counts}", _table(tables[one.name]), sep="\n", end="\n\n")
    machine_text = ", ".join(f"{key} {value}" for key, value in machine.items())
    print(*(f"! {line}" for line in misfits), *described, f"machine: {machine_text}", sep="\n")
    if arguments.output:
        facts = {
            "schema": 2,
            "plans": {name: {s.name: s._asdict() for s in tables[name]} for name in tables},
            "does_not_fit": misfits,
            "described": described,
            "num_devices": num_devices,
            "rates": rates._asdict(),
            "machine": machine,
        }
        content = json.dumps(facts, indent=1, allow_nan=False) + "\n"
        files.write_bytes(epath.Path(arguments.output), content.encode())


def _check(arguments: argparse.Namespace, model_partitions: int) -> None:
    from etils import epath

    from ilias_jax.files import check_output, check_writable

    devices, folder = arguments.devices, arguments.folder
    if not 0 < arguments.network_mb_s < math.inf:
        raise UserError(f"--network_mb_s {arguments.network_mb_s} must be above 0")
    if devices is not None and (devices < 1 or devices % model_partitions):
        raise UserError(
            f"--devices {devices} must be at least 1 and a multiple of mesh.model_partitions="
            f"{model_partitions}, the devices that share one copy of the parameters"
        )
    if "://" in folder:
        raise UserError(f"--folder {folder}: name a local one, on the disk that the run will use")
    check_writable(epath.Path(folder), "--folder")
    if arguments.output:
        check_output(arguments.output, [arguments.config.partition(":")[0]])


def _measure(recipe: "Recipe", mesh: "Mesh", folder: pathlib.Path) -> "Rates":
    """The rates of this machine; the progress of the stages goes to stderr."""
    import jax

    from ilias_jax.files import writing
    from ilias_jax.plan.rates import measure

    try:
        with contextlib.redirect_stdout(sys.stderr), writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            return measure(recipe, mesh, folder)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        config, reason = recipe.config, str(error).splitlines()[0]
        raise UserError(
            f"embed.batch_size_per_device={config.embed.batch_size_per_device} or search.block_rows"
            f"={config.search.block_rows}: a batch does not fit the device ({reason}); lower it"
        ) from error


def format_seconds(seconds: float) -> str:
    """A duration in a unit that suits it: 13.1 days, 17.5 h, 90.0 s, 15.0 ms."""
    unit, size, _ = next(row for row in _UNITS if seconds >= row[2])
    value = seconds / size
    return f"{value:,.0f} {unit}" if value >= 100 else f"{value:,.1f} {unit}"


def _table(stages: "Sequence[Stage]") -> str:
    from ilias_jax.progress import format_bytes

    rows = [["", "read", "written", "host", "a device", "time"]]
    for name, *sizes, seconds in stages:
        words = [format_bytes(size) if size else "-" for size in sizes]
        rows.append([name, *words, format_seconds(seconds)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])] for row in rows)
    return "\n".join("  ".join(line) for line in lines)


def _describe(recipe: "Recipe", rates: "Rates", num_devices: int, network: float) -> list[str]:
    from ilias_jax.progress import format_bytes

    config, (tokens, flops) = recipe.config, recipe.photo
    lines = [
        f"recipe: {config.model.name}, {recipe.num_parameters:,} parameters, {config.model.dtype}; "
        f"an image takes {tokens:,.0f} tokens and {flops / 1e9:,.1f} GFLOP",
        f"measured: embedding {rates.tokens:,.0f} tokens/s of {rates.note}; disk "
        f"{format_bytes(rates.write)}/s written, {format_bytes(rates.read)}/s read; one process "
        f"converts {format_bytes(rates.convert)}/s; {rates.pictures:,.0f} pictures/s drawn",
    ]
    if rates.exact:
        points = ", ".join(f"{rows:,} rows {seconds:,.1f} s" for rows, seconds in rates.exact)
        lines.append(f"measured: exact search for the official image queries: {points}")
    if any(rates.scann):
        indexed, searched = (1 / seconds for seconds in rates.scann)
        lines.append(f"measured: ScaNN: {indexed:,.0f} rows/s indexed, {searched:,.0f} queries/s")
    lines.append(
        f"assumed: network {format_bytes(network)}/s (--network_mb_s); an image takes 63 kB as "
        "published and has the shape of usual cameras; tars are kept; memory is that of libraries "
        "and the largest arrays; compilation and an adapter take no time"
    )
    if num_devices != rates.num_devices:
        lines.append(
            f"assumed: {num_devices} devices do {num_devices / rates.num_devices:g} times as much "
            f"as the {rates.num_devices} measured, and one host feeds them"
        )
    return lines
