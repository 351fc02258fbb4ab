"""`ilias-jax models`: the table of models known by name, and their files ahead of a run."""

import argparse

from ilias_jax.config import ModelConfig


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Defines the command."""
    parser = commands.add_parser(
        "models",
        help="print the table of models, or download one's files",
        description="Without options, prints the table of models. A run downloads a model's files "
        "on first use; --download brings them where the run itself has no network.",
    )
    parser.add_argument("--download", metavar="NAME", default="", help="model to download")
    weights = ("big_vision", "open_clip", "timm")
    parser.add_argument("--weights", choices=weights, default="big_vision", help="which file")
    towers = parser.add_argument("--towers", choices=("both", "image"), default="both")
    towers.help = "image: the image tower alone, without a tokenizer"
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Prints the table of models, or downloads one."""
    if arguments.download:
        _download(ModelConfig(arguments.download, "", arguments.weights, arguments.towers))
    else:
        _print_table()


def _download(config: ModelConfig) -> None:
    from ilias_jax.model_files import bring_model_files
    from ilias_jax.towers.files import find_files

    bring_model_files(config)
    files = find_files(config)
    for path in (files.checkpoint, files.tokenizer):
        if path is not None:
            print(path)


def _print_table() -> None:
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
