"""Moved to ilias_jax.official.export."""

import sys

from ilias_jax.official import export

sys.modules[__name__] = export
