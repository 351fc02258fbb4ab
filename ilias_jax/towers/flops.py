"""Moved."""

import sys

from ilias_jax.models import parameters

sys.modules[__name__] = parameters
