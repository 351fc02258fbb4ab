"""Moved to ilias_jax.models.layers; Width is TransformerSize, Style is BlockConfig."""

from ilias_jax.models.layers import (  # noqa: F401
    Activation,
    Block,
    Encoder,
    layer_norm,
)
from ilias_jax.models.layers import BlockConfig as Style  # noqa: F401
from ilias_jax.models.layers import TransformerSize as Width  # noqa: F401
