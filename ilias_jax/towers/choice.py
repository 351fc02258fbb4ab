"""Moved to ilias_jax.models.registry.registry."""

from ilias_jax.config import ModelConfig
from ilias_jax.models.registry.entry import Variant
from ilias_jax.models.registry.registry import specify, text_alone  # noqa: F401


def require_images(config: ModelConfig) -> Variant:
    """The row of a configuration's model; raises UserError if it cannot be run."""
    return specify(config).variant
