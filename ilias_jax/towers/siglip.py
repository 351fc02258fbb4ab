"""Moved to ilias_jax.models.registry.siglip and ilias_jax.models.dual_encoder."""

from ilias_jax.models.dual_encoder import l2_normalize  # noqa: F401
from ilias_jax.models.registry.siglip import siglip  # noqa: F401
