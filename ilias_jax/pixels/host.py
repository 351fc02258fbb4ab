"""Moved to ilias_jax.preprocessing.decode."""

import sys

from ilias_jax.preprocessing import decode

sys.modules[__name__] = decode
