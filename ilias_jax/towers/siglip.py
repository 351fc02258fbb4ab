"""Moved to ilias_jax.models.registry.siglip; `l2_normalize` is for scripts/train_tiny.py alone."""

import jax
import jax.numpy as jnp

from ilias_jax.models.registry.siglip import siglip  # noqa: F401


def l2_normalize(x: jax.Array, epsilon: float = 1e-12) -> jax.Array:
    """Divides [..., D] float32 by max(norm, epsilon) over the last axis."""
    return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), epsilon)
