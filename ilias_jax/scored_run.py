"""Moved to ilias_jax.metrics.compare."""

from ilias_jax.metrics.compare import read_run_scores as read_scored_run

__all__ = ["read_scored_run"]
