"""Which towers and which published file of its model a configuration asks for."""

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
    if architecture.image is None:
        raise UserError(f"model.name={config.name!r} cannot embed images: {variant.note}")
    if config.towers == "both" and architecture.text is None:
        raise UserError(
            f"model.towers='both': {config.name} has no text tower; run image queries alone with "
            "model.towers=image"
        )
    _refuse_unused(config, variant)
    return variant


def _refuse_unused(config: ModelConfig, variant: Variant) -> None:
    """Raises UserError for a value that was set and would have no effect."""
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
    both = config.towers == "both"
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
