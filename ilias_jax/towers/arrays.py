"""Moved to ilias_jax.models.checkpoints.formats."""

import sys

from ilias_jax.models.checkpoints import formats

sys.modules[__name__] = formats
