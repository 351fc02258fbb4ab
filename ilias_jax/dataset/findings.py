"""Moved to ilias_jax.dataset.validation."""

from ilias_jax.dataset.validation import NUM_EXAMPLES as NUM_EXAMPLES
from ilias_jax.dataset.validation import ValidationReport as Findings  # noqa: F401
