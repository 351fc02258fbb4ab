"""Moved to ilias_jax.dataset.synthetic.scene."""

import sys

from ilias_jax.dataset.synthetic import scene

sys.modules[__name__] = scene
