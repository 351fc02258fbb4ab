"""Moved to ilias_jax.models.registry.entry."""

import sys

from ilias_jax.models.registry import entry

sys.modules[__name__] = entry
