"""Moved to ilias_jax.files."""

import sys

from ilias_jax import files

sys.modules[__name__] = files
