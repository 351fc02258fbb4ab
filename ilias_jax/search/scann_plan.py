"""Moved to ilias_jax.search.scann."""

import sys

from ilias_jax.search import scann

sys.modules[__name__] = scann
