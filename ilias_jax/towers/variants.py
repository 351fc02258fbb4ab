"""Moved to ilias_jax.models.registry.registry."""

import sys

from ilias_jax.models.registry import registry

sys.modules[__name__] = registry
