"""Moved to ilias_jax.embeddings.sources."""

import sys

from ilias_jax.embeddings import sources

sys.modules[__name__] = sources
