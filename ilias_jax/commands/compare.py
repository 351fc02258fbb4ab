"""`ilias-jax compare`: the paired difference of two runs."""

import argparse

from ilias_jax.errors import UserError


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Defines the command and its flags."""
    parser = commands.add_parser("compare", help="say how much two runs differ, and how surely")
    what = "workdir, report folder, report.json, or a result of `ilias-jax evaluate`"
    parser.add_argument("a", metavar="A", help=what)
    parser.add_argument("b", metavar="B", help="another over the same queries; B - A is shown")
    parser.add_argument("--taxonomy", help="taxonomy.json, where the runs do not name categories")
    parser.add_argument("--resamples", type=int, default=10_000, help="of the bootstrap")
    parser.add_argument("--permutations", type=int, default=10_000, help="of the test")
    parser.add_argument("--seed", type=int, default=0, help="of both")
    parser.add_argument("--all", action="store_true", help="show subcategories too")
    parser.add_argument("--output", help="JSON file to write, with every group")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Compares two runs, warnings first."""
    from etils import epath

    from ilias_jax import files
    from ilias_jax.dataset.ground_truth import read_taxonomy
    from ilias_jax.metrics.compare import compare_runs, read_run_scores
    from ilias_jax.report.comparison import to_text
    from ilias_jax.report.render import to_json

    for name, least in (("resamples", 40), ("permutations", 1), ("seed", 0)):
        value = getattr(arguments, name)
        if not least <= value < 2**32:
            raise UserError(f"--{name} {value} must be at least {least} and below 2**32")
    a, b = read_run_scores(arguments.a), read_run_scores(arguments.b)
    objects = None
    if arguments.taxonomy:
        taxonomy = read_taxonomy(epath.Path(arguments.taxonomy))
        objects = {name: path[:2] for name, path in taxonomy.items()}
    document = compare_runs(
        a,
        b,
        objects,
        num_resamples=arguments.resamples,
        num_permutations=arguments.permutations,
        seed=arguments.seed,
    )
    print(to_text(document, subcategories=arguments.all))
    if arguments.output:
        files.write_bytes(epath.Path(arguments.output), to_json(document).encode())
