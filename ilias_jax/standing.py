"""Moved to ilias_jax.metrics.published."""

from ilias_jax.metrics.published import *  # noqa: F403
