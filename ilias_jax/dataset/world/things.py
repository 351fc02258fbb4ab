"""Moved to ilias_jax.dataset.synthetic.objects."""

import sys

from ilias_jax.dataset.synthetic import objects

sys.modules[__name__] = objects
