"""Moved to ilias_jax.search.ranking."""

import sys

from ilias_jax.search import ranking

sys.modules[__name__] = ranking
