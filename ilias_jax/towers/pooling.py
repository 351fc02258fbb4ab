"""Moved to ilias_jax.models.vit."""

import sys

from ilias_jax.models import vit

sys.modules[__name__] = vit
