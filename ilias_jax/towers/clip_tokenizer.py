"""Moved to ilias_jax.models.tokenizers."""

import sys

from ilias_jax.models import tokenizers

sys.modules[__name__] = tokenizers
