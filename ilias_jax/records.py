"""Moved to ilias_jax.dataset.layout."""

import sys

from ilias_jax.dataset import layout

sys.modules[__name__] = layout
