"""Moved to ilias_jax.preprocessing.views."""

import sys

from ilias_jax.preprocessing import views

sys.modules[__name__] = views
