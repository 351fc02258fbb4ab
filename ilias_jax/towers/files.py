"""Moved to ilias_jax.models.hub and ilias_jax.models.registry."""

from ilias_jax.config import ModelConfig
from ilias_jax.models.hub import (  # noqa: F401
    CACHE_VARIABLE,
    Origin,
    cache_folder,
    cached_path,
    record_origin,
    verified_origin,
)
from ilias_jax.models.registry import registry
from ilias_jax.models.registry.entry import (
    ResolvedModel,
    WantedFile,  # noqa: F401
)
from ilias_jax.models.registry.registry import Bring, resolve_row, specify


def find_files(config: ModelConfig, bring: Bring | None = None) -> ResolvedModel:
    """A model's files; see `resolve`."""
    return resolve_row(config, bring=bring, needs_images=False)


def wanted_files(config: ModelConfig) -> list[WantedFile]:
    """The files of a model."""
    return registry.wanted_files(config, specify(config, needs_images=False).variant)
