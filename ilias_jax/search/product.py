"""Moved to ilias_jax.search.filter."""

import sys

from ilias_jax.search import filter

sys.modules[__name__] = filter
