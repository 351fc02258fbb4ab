"""Moved to ilias_jax.models.checkpoints.torch_names."""

from ilias_jax.models.checkpoints.torch_names import from_torch as from_arrays  # noqa: F401
from ilias_jax.models.checkpoints.torch_names import layout  # noqa: F401
from ilias_jax.models.checkpoints.torch_names import to_torch as to_arrays  # noqa: F401
