"""Moved to ilias_jax.metrics.compare."""

from ilias_jax.metrics.compare import compare_runs as compare_runs
from ilias_jax.metrics.compare import read_run_scores as read_scored_run

__all__ = ["compare_runs", "read_scored_run"]
