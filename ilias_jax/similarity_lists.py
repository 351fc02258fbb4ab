"""Moved to ilias_jax.metrics.lists."""

import sys

from ilias_jax.metrics import lists

sys.modules[__name__] = lists
