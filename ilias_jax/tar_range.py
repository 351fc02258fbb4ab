"""Moved to ilias_jax.dataset.catalogue."""

from ilias_jax.dataset.catalogue import select_tars as select

__all__ = ["select"]
