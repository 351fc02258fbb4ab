"""Moved to ilias_jax.preprocessing.resize."""

import sys

from ilias_jax.preprocessing import resize

sys.modules[__name__] = resize
