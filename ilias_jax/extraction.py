"""Moved to ilias_jax.embeddings.extract."""

import sys

from ilias_jax.embeddings import extract

sys.modules[__name__] = extract
