"""Moved to ilias_jax.models.checkpoints.torch_format."""

import sys

from ilias_jax.models.checkpoints import torch_format

sys.modules[__name__] = torch_format
