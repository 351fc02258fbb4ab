"""Moved to ilias_jax.report.gallery."""

import sys

from ilias_jax.report import gallery

sys.modules[__name__] = gallery
