"""Moved to ilias_jax.report.manifest."""

import sys

from ilias_jax.report import manifest

sys.modules[__name__] = manifest
