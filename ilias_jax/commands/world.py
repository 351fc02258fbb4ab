"""`ilias-jax world`: a miniature world, images and shards."""

import argparse
import pathlib

from ilias_jax.config import path_flag
from ilias_jax.errors import UserError


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser("world", help="generate a miniature world, images and shards")
    parser.add_argument("--output", type=path_flag, required=True, help="folder to create")
    parser.add_argument("--seed", type=int, default=7, help="picks the world")
    parser.add_argument("--distractors", type=int, default=5000, help="how many")
    parser.add_argument("--processes", type=int, default=2, help="that render")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    from etils import epath

    from ilias_jax.config import WorldConfig
    from ilias_jax.dataset.synthetic.generate import make_world
    from ilias_jax.files import check_writable

    output = pathlib.Path(arguments.output)
    if output.exists():
        raise UserError(f"--output {output} exists; name a folder that does not")
    check_writable(epath.Path(output.parent), "--output")
    if arguments.processes < 1:
        raise UserError(f"--processes {arguments.processes} must be at least 1")
    num_tars = max(1, min(10, arguments.distractors))
    world = WorldConfig(arguments.seed, num_distractors=arguments.distractors, num_tars=num_tars)
    if not make_world(world, output, arguments.processes):
        raise UserError(f"--output {output}: another process has made a world there meanwhile")
    print(f"{output}: seed {world.seed}, {world.num_distractors:,} distractors")
