"""Scores of a ranking against the ground truth: mAP@k, its groups and its intervals."""

from ilias_jax.metrics.evaluate import evaluate
from ilias_jax.metrics.result import Metrics

__all__ = ["Metrics", "evaluate"]
