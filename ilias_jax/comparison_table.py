"""Moved to ilias_jax.report.comparison."""

import sys

from ilias_jax.report import comparison

sys.modules[__name__] = comparison
