"""Moved to ilias_jax.report.render."""

import sys

from ilias_jax.report import render

sys.modules[__name__] = render
