"""The `ilias-jax` command: puts the subcommands together and says what a user did wrong."""

import argparse
import sys
from collections.abc import Sequence

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
from ilias_jax.errors import UserError

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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="ilias-jax", description="Runs the ILIAS benchmark.")
    commands = parser.add_subparsers(dest="command", required=True)
    for command in _COMMANDS:
        command.add_parser(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of the console script; a user's mistake prints its message and exits with 1."""
    parser = _parser()
    arguments, rest = parser.parse_known_args(argv)
    # A command that takes a recipe reads the recipe's own flags, --config.KEY=VALUE.
    if rest and not hasattr(arguments, "rest"):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    arguments.rest = rest
    try:
        arguments.run(arguments)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
