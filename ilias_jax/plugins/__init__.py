"""Plug-ins: a user's own JAX model as a function that a recipe names."""

from ilias_jax.plugins.identity import file_sha256, parameters_sha256
from ilias_jax.plugins.images import to_images

__all__ = ["file_sha256", "parameters_sha256", "to_images"]
