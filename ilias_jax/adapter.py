"""Moved to ilias_jax.search.adapter."""

import sys

from ilias_jax.search import adapter

sys.modules[__name__] = adapter
