"""Moved to ilias_jax.dataset.ground_truth."""

import sys

from ilias_jax.dataset import ground_truth

sys.modules[__name__] = ground_truth
