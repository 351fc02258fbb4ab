"""Moved to ilias_jax.models.load, whose functions take what `resolve` gives."""

from ilias_jax.config import ModelConfig
from ilias_jax.files import sha256  # noqa: F401
from ilias_jax.model import Model, TextModel
from ilias_jax.models import load
from ilias_jax.models.load import tower_model  # noqa: F401
from ilias_jax.models.registry.registry import resolve, resolve_row


def load_model(config: ModelConfig, max_scale: float = 1.0) -> Model:
    """Loads a named model."""
    return load.load_model(resolve(config, max_scale=max_scale))


def load_text_model(config: ModelConfig) -> TextModel:
    """Loads the text tower of a named model."""
    return load.load_text_model(resolve_row(config, needs_images=False))
