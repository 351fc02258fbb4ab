"""`ilias-jax evaluate`: the official numbers of similarity files."""

import argparse

from ilias_jax.config import path_flag


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser("evaluate", help="score similarity files, JSON or pickle")
    parser.add_argument(
        "--similarities",
        type=path_flag,
        required=True,
        nargs="+",
        metavar="FILE",
        help="one result, or its parts",
    )
    parser.add_argument(
        "--ids", type=path_flag, required=True, metavar="DIR", help="folder that holds image_ids/"
    )
    parser.add_argument(
        "--taxonomy", type=path_flag, metavar="FILE", help="if not DIR/misc/taxonomy.json"
    )
    parser.add_argument("--k", type=int, default=1000, help="cut of the lists")
    parser.add_argument(
        "--output", type=path_flag, metavar="OUT.json", help="where to write all numbers"
    )
    parser.add_argument(
        "--check_distractors",
        action="store_true",
        help="look distractors up in DIR/image_ids/distractor_ids.txt.gz (slow: 100M lines)",
    )
    parser.add_argument(
        "--allow",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME",
        help="what may be wrong with the lists; an error says which name allows it",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    from ilias_jax.dataset import layout
    from ilias_jax.files import check_output
    from ilias_jax.official.evaluate import evaluate_files, write_evaluation

    if arguments.output:
        labels = [*layout.folders(arguments.ids), *filter(None, [arguments.taxonomy])]
        check_output(arguments.output, [*arguments.similarities, *labels])
    evaluation = evaluate_files(
        arguments.similarities,
        arguments.ids,
        taxonomy=arguments.taxonomy,
        k=arguments.k,
        allowed=arguments.allow,
        check_distractors=arguments.check_distractors,
    )
    print("\n".join(evaluation.lines()))
    if arguments.output:
        write_evaluation(evaluation, arguments.output)
        print(f"{arguments.output}: all numbers")
