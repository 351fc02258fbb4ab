"""Scores of a search against the ground truth: mAP@k, its groups and its intervals."""

from ilias_jax.metrics.scores import Metrics, evaluate

__all__ = ["Metrics", "evaluate"]
