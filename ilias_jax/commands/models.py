"""`ilias-jax models`: the table of models known by name."""

import argparse


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Defines the command."""
    parser = commands.add_parser("models", help="print the table of models")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Prints the table of models."""
    del arguments
    from ilias_jax.towers.parameters import count_parameters
    from ilias_jax.towers.variants import VARIANTS

    head = f"{'name':<40} {'params, M: image':>16} {'text':>6} {'train':>5} {'test':>5} {'dim':>5}"
    print(f"{head}  {'licence':<11} weights")
    for name, row in VARIANTS.items():
        image, text = (number / 1e6 for number in count_parameters(row.architecture))
        sizes = f"{row.train_resolution:>5} {row.test_resolution:>5}"
        dim = row.architecture.embedding_dim
        where = "bundled" if row.bundled else ", ".join(row.files)
        print(f"{name:<40} {image:>16.1f} {text:>6.1f} {sizes} {dim:>5}  {row.licence:<11} {where}")
    print(
        "weights: published files that are downloaded on first use (model.weights=...); big_vision "
        "and open_clip hold both towers, timm the image tower alone (model.towers=image)"
    )
