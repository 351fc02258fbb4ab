"""`ilias-jax models`: the table of models known by name."""

import argparse


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Defines the command."""
    parser = commands.add_parser("models", help="print the table of models")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Prints the table of models."""
    del arguments
    from ilias_jax.towers.variants import VARIANTS

    print(f"{'name':<40} {'train':>5} {'test':>5} {'dim':>5}  checkpoint")
    for name, row in VARIANTS.items():
        dim = row.architecture.embedding_dim
        where = f"bundled, data/{row.checkpoint}" if row.bundled else row.checkpoint
        print(f"{name:<40} {row.train_resolution:>5} {row.test_resolution:>5} {dim:>5}  {where}")
