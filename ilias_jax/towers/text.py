"""Moved to ilias_jax.models.text."""

import sys

from ilias_jax.models import text

sys.modules[__name__] = text
