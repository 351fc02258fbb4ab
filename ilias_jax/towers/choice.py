"""Which towers and which published file of its model a configuration asks for."""

import dataclasses

from ilias_jax.config import ModelConfig
from ilias_jax.errors import UserError
from ilias_jax.towers.variant import PublishedFile, Variant, Weights
from ilias_jax.towers.variants import find_variant

_BOTH_TOWERS: tuple[Weights, ...] = ("big_vision", "open_clip")  # whose files hold both


def check_towers(config: ModelConfig) -> Variant:
    """The row of a configuration's model, which must have the towers that are asked for.

    Raises:
        UserError: the model is unknown, or it has no such tower.
    """
    variant = find_variant(config.name)
    architecture = variant.architecture
    if architecture.image is None and config.towers != "text":
        raise UserError(
            f"model.name={config.name!r} cannot embed images: {variant.note}; its texts alone: "
            "`ilias-jax texts` with model.towers=text"
        )
    if architecture.text is None and config.towers != "image":
        alone = "run image queries alone with model.towers=image"
        raise UserError(f"model.towers={config.towers!r}: {config.name} has no text tower; {alone}")
    _refuse_unused(config, variant)
    return variant


def require_images(config: ModelConfig) -> Variant:
    """As `check_towers`, for a run, which embeds images.

    Raises:
        UserError: as there, or the text tower alone is asked for.
    """
    variant = check_towers(config)
    if config.towers == "text":
        note = f", and {config.name} has none: {variant.note}"
        raise UserError(
            "model.towers='text' is for `ilias-jax texts`, which embeds texts alone; a run needs "
            f"an image tower{'' if variant.architecture.image else note}"
        )
    return variant


def _has_text_file(config: ModelConfig, variant: Variant) -> bool:
    """Whether the text tower comes from a file of its own."""
    return bool(config.text_checkpoint or (variant.text_file and not config.checkpoint))


def text_alone(config: ModelConfig) -> ModelConfig:
    """The text tower of a configuration by itself, without what is for the image tower.

    Raises:
        UserError: there is no text tower, or the image tower alone was asked for.
    """
    variant = find_variant(config.name)
    if variant.architecture.text is None:
        raise UserError(f"model.name={config.name!r} has no text tower")
    if config.towers == "image":
        raise UserError("model.towers='image' has no texts; use 'text' or leave it out")
    if config.towers == "text":
        return config
    apart = _has_text_file(config, variant)
    return dataclasses.replace(
        config,
        towers="text",
        resolution=0,
        checkpoint="" if config.text_checkpoint else config.checkpoint,
        weights="" if apart else config.weights,
    )


def _refuse_unused(config: ModelConfig, variant: Variant) -> None:
    """Raises UserError for a value that was set and would have no effect."""
    if config.towers == "text" and config.checkpoint and config.text_checkpoint:
        raise UserError(
            f"model.checkpoint={config.checkpoint} would have no effect with model.towers=text "
            "beside model.text_checkpoint; leave one of them out"
        )
    if config.towers == "text" and config.resolution:
        raise UserError(
            f"model.resolution={config.resolution} would have no effect with model.towers=text; "
            "leave it out"
        )
    if config.towers == "text" and config.weights and _has_text_file(config, variant):
        raise UserError(
            f"model.weights={config.weights!r} would have no effect with model.towers=text: "
            f"{config.name} has its text tower from another file; leave it out"
        )
    vocabulary = variant.vocabulary
    if config.text_checkpoint and config.towers == "image":
        raise UserError(
            f"model.text_checkpoint={config.text_checkpoint} would have no effect with "
            "model.towers=image; leave one of them out"
        )
    if vocabulary is not None and vocabulary.kind == "clip" and config.text_cleaning == "lower":
        raise UserError(
            f"model.text_cleaning='lower' would have no effect: {config.name} has CLIP's "
            "tokenizer, which cleans texts in one way; leave it out"
        )


def choose_weights(config: ModelConfig, variant: Variant) -> PublishedFile | None:
    """The published file that a configuration asks for, or could have asked for.

    Returns:
        It, or None if there is none and the configuration gives a file of its own.

    Raises:
        UserError: it gives no file of its own, and the model has none that is suitable.
    """
    known = ", ".join(map(repr, variant.files))
    # The text tower is to come from this file too.
    both = config.towers != "image" and not _has_text_file(config, variant)
    wanted: Weights | None = config.weights or _usual(variant, both)
    if config.checkpoint:
        return variant.files.get(wanted or "timm")
    if wanted is None or not variant.files:
        raise UserError(f"model.checkpoint: {config.name} has no published file: {variant.note}")
    if wanted not in variant.files:
        raise UserError(f"model.weights={wanted!r}: {config.name} has {known}")
    if both and wanted not in _BOTH_TOWERS:
        raise UserError(
            f"model.weights={wanted!r} is a file of the image tower alone, and {config.name} has "
            f"{known}; run image queries alone with model.towers=image"
        )
    return variant.files[wanted]


def _usual(variant: Variant, both: bool) -> Weights | None:
    """The first of a model's formats that has all that is needed, else the first."""
    suitable = [weights for weights in variant.files if weights in _BOTH_TOWERS or not both]
    return next(iter([*suitable, *variant.files]), None)
