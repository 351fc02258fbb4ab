"""Moved to ilias_jax.profiling."""

import sys

from ilias_jax import profiling

sys.modules[__name__] = profiling
