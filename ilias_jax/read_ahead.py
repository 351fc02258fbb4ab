"""Moved to ilias_jax.embeddings.read_ahead."""

import sys

from ilias_jax.embeddings import read_ahead

sys.modules[__name__] = read_ahead
