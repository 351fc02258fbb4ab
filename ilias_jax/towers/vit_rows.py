"""Moved to ilias_jax.models.registry.vit."""

import sys

from ilias_jax.models.registry import vit

sys.modules[__name__] = vit
