"""Runs the ILIAS benchmark.

python main.py --config configs/demo.py [--workdir DIR] [--config.search.k=100] [--distributed]
"""

import argparse
from collections.abc import Sequence

from etils import epath

from ilias_jax import benchmark, cli
from ilias_jax.config import path_flag, read_words
from ilias_jax.errors import UserError
from ilias_jax.report import manifest


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="main.py",
        usage="main.py --config FILE[:ARGUMENT] [--config.KEY=VALUE ...] [options]",
        description="Runs the ILIAS benchmark.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--config", type=path_flag, metavar="FILE", help="the recipe, such as configs/demo.py"
    )
    parser.add_argument(
        "--workdir", type=path_flag, metavar="DIR", help="of the results; runs/RECIPE by default"
    )
    parser.add_argument("--distributed", action="store_true", help="join the other hosts")
    # Cloud TPUs and Slurm fill these three in by themselves.
    parser.add_argument("--coordinator", metavar="HOST:PORT", help="of the first process")
    parser.add_argument("--num_processes", type=int, help="how many processes there are")
    parser.add_argument("--process_id", type=int, help="which of them this one is, from 0")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Reads the command line and runs the benchmark; see `cli.run` for a user's mistakes."""
    flags, rest = _parser().parse_known_args(argv)
    recipe = [] if flags.config is None else [f"--config={flags.config}"]
    config = read_words("main.py", [*recipe, *rest], list(vars(flags)))
    workdir = epath.Path(flags.workdir or cli.default_workdir(flags.config))
    hosts = flags.coordinator, flags.num_processes, flags.process_id
    if flags.distributed:
        cli.join_hosts(*hosts)
    elif any(value is not None for value in hosts):
        raise UserError("--coordinator, --num_processes and --process_id need --distributed")
    cli.prepare_jax()
    cli.keep_compilations()
    model = config.model.name or config.model.factory
    print(f"{model} on {config.dataset.name}; {manifest.machine()['devices']}; {workdir}")
    document = benchmark.run(config, workdir)
    if document is not None:
        print(cli.summarize(document, str(workdir)))


if __name__ == "__main__":
    cli.run(main)
