"""Scores of a ranking against the ground truth: mAP@k, its groups and its intervals."""

from typing import TYPE_CHECKING, Any

from ilias_jax.metrics.result import Metrics

if TYPE_CHECKING:
    from ilias_jax.metrics.on_device import evaluate

__all__ = ["Metrics", "evaluate"]


def __getattr__(name: str) -> Any:
    """Imports `evaluate` when it is asked for: what scores files on the host needs no JAX."""
    if name == "evaluate":
        from ilias_jax.metrics.on_device import evaluate

        return evaluate
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
