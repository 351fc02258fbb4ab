"""Moved to ilias_jax.dataset.synthetic.generate."""

import sys

from ilias_jax.dataset.synthetic import generate

sys.modules[__name__] = generate
