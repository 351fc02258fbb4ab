"""Moved to ilias_jax.preprocessing.batching."""

import sys

from ilias_jax.preprocessing import batching

sys.modules[__name__] = batching
