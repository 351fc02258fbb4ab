"""`ilias-jax export`: a run's embeddings and rankings as official files."""

import argparse

from ilias_jax.config import path_flag


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser("export", help="write a run as files of the official toolkit")
    parser.add_argument("--workdir", type=path_flag, required=True, help="of a finished run")
    parser.add_argument("--output", type=path_flag, required=True, help="folder to write to")
    parser.add_argument("--features", action="store_true", help="embeddings, as HDF5")
    parser.add_argument("--rankings", action="store_true", help="rankings, as similarity files")
    parser.add_argument("--format", choices=("json", "pickle"), default="json", help="of rankings")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    from etils import epath

    from ilias_jax.files import check_writable
    from ilias_jax.official.export import export_features, export_rankings

    workdir, output = epath.Path(arguments.workdir), epath.Path(arguments.output)
    check_writable(output, "--output")
    both = arguments.features == arguments.rankings
    written = []
    if arguments.rankings or both:
        written += export_rankings(workdir, output, arguments.format)
    if arguments.features or both:
        written += export_features(workdir, output)
    print(f"{output}: {', '.join(path.name for path in written[:4])}, {len(written)} files in all")
