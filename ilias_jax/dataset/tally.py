"""Moved to ilias_jax.dataset.id_counter."""

from ilias_jax.dataset.id_counter import IdCounter as Tally  # noqa: F401
