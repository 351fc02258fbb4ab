"""Moved to ilias_jax.models.checkpoints.load."""

import sys

from ilias_jax.models.checkpoints import load

sys.modules[__name__] = load
