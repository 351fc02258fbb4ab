"""Moved to ilias_jax.models.checkpoints.flax_names."""

from ilias_jax.models.checkpoints.flax_names import from_big_vision as from_arrays  # noqa: F401
from ilias_jax.models.checkpoints.flax_names import to_big_vision as to_arrays  # noqa: F401
from ilias_jax.models.parameters import parameter_shapes  # noqa: F401
