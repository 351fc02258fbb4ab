"""Moved to ilias_jax.models.checkpoints.torch_names; tests write by tests/torch_written.py."""

from ilias_jax.models.checkpoints.torch_names import from_torch as from_arrays  # noqa: F401
