"""Moved to ilias_jax.dataset.inventory."""

from ilias_jax.dataset.inventory import ShardSlot as Place  # noqa: F401
