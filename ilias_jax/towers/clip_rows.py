"""Moved to ilias_jax.models.registry.clip."""

import sys

from ilias_jax.models.registry import clip

sys.modules[__name__] = clip
