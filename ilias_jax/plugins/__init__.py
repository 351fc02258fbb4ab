"""Moved to ilias_jax.model and ilias_jax.models."""

from ilias_jax.model import file_sha256, parameters_sha256, to_images

__all__ = ["file_sha256", "parameters_sha256", "to_images"]
