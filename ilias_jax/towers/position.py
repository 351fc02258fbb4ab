"""Moved to ilias_jax.models.positions."""

import sys

from ilias_jax.models import positions

sys.modules[__name__] = positions
