"""Moved to ilias_jax.models.dual_encoder."""

import sys

from ilias_jax.models import dual_encoder

sys.modules[__name__] = dual_encoder
