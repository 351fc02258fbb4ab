"""Moved to ilias_jax.models.checkpoints.torch_names."""

import sys

from ilias_jax.models.checkpoints import torch_names

sys.modules[__name__] = torch_names
