"""Moved to ilias_jax.embeddings.norms."""

import sys

from ilias_jax.embeddings import norms

sys.modules[__name__] = norms
