"""Moved to ilias_jax.dataset.id_lists."""

import sys

from ilias_jax.dataset import id_lists

sys.modules[__name__] = id_lists
