"""Moved to ilias_jax.official.evaluate."""

from ilias_jax.official.evaluate import *  # noqa: F403
