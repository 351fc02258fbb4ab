"""Moved to ilias_jax.metrics.lists."""

from ilias_jax.metrics.lists import *  # noqa: F403
