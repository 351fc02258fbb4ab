"""The `ilias-jax` command: each subcommand is a few lines over the library."""

import argparse
import pathlib
import sys
from collections.abc import Sequence

from ilias_jax.errors import UserError


def _world(arguments: argparse.Namespace) -> None:
    """Generates a miniature world with its shards."""
    from ilias_jax.config import WorldConfig
    from ilias_jax.preflight import make_world

    output = pathlib.Path(arguments.output)
    if output.exists():
        raise UserError(f"--output {output} exists; name a folder that does not")
    if arguments.processes < 1:
        raise UserError(f"--processes {arguments.processes} must be at least 1")
    world = WorldConfig(
        seed=arguments.seed,
        num_distractors=arguments.distractors,
        num_tars=max(1, min(10, arguments.distractors)),
    )
    make_world(world, output, arguments.processes)
    print(f"{output}: seed {world.seed}, {world.num_distractors:,} distractors")


def _models(arguments: argparse.Namespace) -> None:
    """Prints the table of models."""
    del arguments
    from ilias_jax.towers.variants import VARIANTS

    print(f"{'name':<40} {'train':>5} {'test':>5} {'dim':>5}  checkpoint")
    for name, row in VARIANTS.items():
        dim = row.architecture.embedding_dim
        where = f"bundled, data/{row.checkpoint}" if row.bundled else row.checkpoint
        print(f"{name:<40} {row.train_resolution:>5} {row.test_resolution:>5} {dim:>5}  {where}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="ilias-jax", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    world = commands.add_parser("world", help="generate a miniature world, images and shards")
    world.add_argument("--output", required=True, help="folder to create")
    world.add_argument("--seed", type=int, default=7, help="picks the world")
    world.add_argument("--distractors", type=int, default=5000, help="how many")
    world.add_argument("--processes", type=int, default=2, help="that render")
    world.set_defaults(run=_world)
    models = commands.add_parser("models", help="print the table of models")
    models.set_defaults(run=_models)
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of the console script; a user's mistake prints its message and exits with 1."""
    arguments = _parser().parse_args(argv)
    try:
        arguments.run(arguments)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
