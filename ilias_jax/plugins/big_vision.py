"""Moved to ilias_jax.models.big_vision."""

import sys

from ilias_jax.models import big_vision

sys.modules[__name__] = big_vision
