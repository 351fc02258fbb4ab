"""Moved to ilias_jax.dataset.synthetic."""
