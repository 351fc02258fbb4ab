"""Moved to ilias_jax.config."""

import sys

from ilias_jax import config

sys.modules[__name__] = config
