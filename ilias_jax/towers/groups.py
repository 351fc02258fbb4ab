"""Moved to ilias_jax.models.attention."""

import sys

from ilias_jax.models import attention

sys.modules[__name__] = attention
