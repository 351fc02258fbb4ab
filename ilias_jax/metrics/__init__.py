"""Scores of a search against the ground truth: mAP@k, its groups and its intervals."""

from typing import TYPE_CHECKING, Any

from ilias_jax.metrics.result import Metrics

if TYPE_CHECKING:
    from ilias_jax.metrics.on_device import evaluate, evaluate_counts

__all__ = ["Metrics", "evaluate", "evaluate_counts"]


def __getattr__(name: str) -> Any:
    """Imports the two when they are asked for: what scores files on the host needs no JAX."""
    if name in ("evaluate", "evaluate_counts"):
        from ilias_jax.metrics import on_device

        return getattr(on_device, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
