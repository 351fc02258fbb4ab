"""Moved to ilias_jax.models.registry.siglip."""

import sys

from ilias_jax.models.registry import siglip

sys.modules[__name__] = siglip
