"""`ilias-jax models`: the table of models known by name, one of them, and files ahead of a run."""

import argparse
import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, get_args

from ilias_jax.config import ModelConfig

if TYPE_CHECKING:
    from ilias_jax.models.registry.entry import Variant

_UNPROVEN = "unproven"
_NONE = "-"


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "models",
        help="print the table of models, all about one, or download one's files",
        description="Prints the table of models; with a name, all about one. A run "
        "downloads a model's files on first use; --download brings them where the run itself has "
        "no network.",
    )
    parser.add_argument("name", nargs="?", default="", help="model to describe")
    parser.add_argument("--download", metavar="NAME", default="", help="model to download")
    weights = [name for name in get_args(ModelConfig.__annotations__["weights"]) if name]
    parser.add_argument("--weights", choices=weights, default="", help="which file")
    towers = parser.add_argument("--towers", choices=("both", "image"), default="")
    towers.help = "one tower alone (image: without a tokenizer); default: all there are"
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    if arguments.download:
        _download(arguments)
    elif arguments.name:
        print("\n".join(_description(arguments.name)))
    else:
        print("\n".join(_table()))


def _download(arguments: argparse.Namespace) -> None:
    from ilias_jax.models import hub
    from ilias_jax.models.registry.registry import find_variant, resolve_row

    row = find_variant(arguments.download)
    config = ModelConfig(
        arguments.download, weights=arguments.weights, towers=arguments.towers or row.towers
    )
    for path in resolve_row(config, bring=hub.bring).files.values():
        print(path)


def _table() -> Iterator[str]:
    from ilias_jax.models.parameters import count_parameters
    from ilias_jax.models.registry.registry import VARIANTS

    head = f"{'name':<46} {'params, M: image':>16} {'text':>6} {'train':>5} {'test':>5} {'dim':>5}"
    yield f"{head}  {'parity: image':<13} {'text':<9} {'licence':<17} weights"
    for name, row in VARIANTS.items():
        counts = [number / 1e6 for number in count_parameters(row.architecture)]
        image, text = (f"{count:.1f}" if count else _NONE for count in counts)
        sizes = f"{row.train_resolution:>5} {row.test_resolution:>5}"
        where = "bundled" if row.bundled else ", ".join(row.files) or "on request"
        yield (
            f"{name:<46} {image:>16} {text:>6} {sizes} {row.architecture.embedding_dim:>5}  "
            f"{_parity(name, row, 'image'):<13} {_parity(name, row, 'text'):<9} "
            f"{row.licence:<17} {where}"
        )
    yield textwrap.dedent(
        """\
        parity: error of the network at full depth against its reference, float32, over the mean
        distance between different inputs' outputs; `ilias-jax models NAME` says all about one
        weights: published files, downloaded on first use (model.weights=...); big_vision and
        open_clip hold both towers, the others the image tower alone (model.towers=image)"""
    )


def _parity(name: str, row: "Variant", modality: str) -> str:
    """The error of a tower, or that it was not compared; a dash if there is no such tower."""
    from ilias_jax.metrics.published import load_parity

    if getattr(row.architecture, modality) is None:
        return _NONE
    found = load_parity().get((name, modality))
    return _UNPROVEN if found is None else f"{found.error:.0e}"


def _description(name: str) -> Iterator[str]:
    from ilias_jax.metrics.published import load_parity
    from ilias_jax.models.hub import is_on_hub
    from ilias_jax.models.registry.registry import find_variant

    row = find_variant(name)
    reference, native = (row.architecture_with(choice) for choice in ("reference", "native"))
    yield name
    for modality in ("image", "text"):
        tower = getattr(native, modality)
        if tower is None:
            continue
        ran = getattr(reference, modality).activation
        yield (
            f"  {modality} tower: {_sizes(tower)}; activation {tower.activation} as trained, {ran} "
            "in the published numbers"
        )
    if native.image is not None:
        inputs = f"patches of {native.image.patch_size} pixels"
        if native.image.whole:
            inputs = f"whole images, no side below {native.image.min_side} pixels"
        yield (
            f"  {inputs}, trained at {row.train_resolution}, "
            f"tested at {row.test_resolution}; mean {row.normalization[0]}, standard deviation "
            f"{row.normalization[1]}"
        )
    yield f"  embeddings of {native.embedding_dim} channels"
    for weights, file in row.files.items():
        stated = "that of the hub" if is_on_hub(file.url) else "not published"
        yield f"  weights {weights}: {file.url} (sha256 {file.sha256 or stated})"
    if row.text_file is not None:
        yield f"  weights of the text tower: {row.text_file.url}"
    if row.vocabulary is not None:
        yield f"  vocabulary: {row.vocabulary.file.url}"
    yield f"  licence: {row.licence}"
    if row.note:
        yield f"  note: {row.note}"
    for modality in ("image", "text"):
        if getattr(native, modality) is not None:
            found = load_parity().get((name, modality))
            yield f"  parity, {found or f'{modality} tower: {_UNPROVEN}'}"
    yield from _published(name)


def _sizes(tower: Any) -> str:
    """What a tower is made of."""
    if not hasattr(tower, "size"):
        return f"CNN, {type(tower).__name__.removesuffix('Config')}"
    size = tower.size
    return f"width {size.width}, {size.depth} blocks, {size.num_heads} heads, MLP {size.mlp_dim}"


def _published(name: str) -> Iterator[str]:
    from ilias_jax.metrics.published import read_published

    scores = [score for score in read_published().scores if score.model == name]
    for score in scores:
        adapted = "with linear adaptation" if score.adapted else "as it is"
        where = " or ".join(score.databases)
        section = score.section.replace("_", " ")
        yield f"  published mAP@1000: {section}, {where}, {adapted}: {score.map}"
    if not scores:
        yield "  published mAP@1000: none"
