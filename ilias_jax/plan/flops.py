"""Floating-point operations of a tower: those of its matrix products, an addition being one too.

Norms, activations and softmax are left out; they are below a hundredth of the sum.
"""

from ilias_jax.towers.layers import Width
from ilias_jax.towers.siglip import SiglipConfig


def layer_flops(size: Width, num_tokens: int) -> int:
    """One transformer block over one sequence: four projections, attention, MLP."""
    projections = 8 * num_tokens * size.width**2
    attention = 4 * num_tokens**2 * size.width
    mlp = 4 * num_tokens * size.width * size.mlp_dim
    return projections + attention + mlp


def image_flops(config: SiglipConfig, num_tokens: int) -> int:
    """The image tower over one image padded to `num_tokens` patches, position embedding and all."""
    size, channels = config.image, config.patch_size**2 * 3
    patches = 2 * num_tokens * channels * size.width
    position = 2 * num_tokens * config.native_grid**2 * size.width
    layers = size.depth * layer_flops(size, num_tokens)
    # The MAP head's one query attends to all tokens: projections of keys and values of all of
    # them, of the query and of the result once.
    head = 4 * num_tokens * size.width**2 + 4 * size.width**2
    head += 4 * num_tokens * size.width + 4 * size.width * size.mlp_dim
    return patches + position + layers + head


def text_flops(config: SiglipConfig) -> int:
    """The text tower over one text, padding included."""
    size = config.text
    layers = size.depth * layer_flops(size, config.text_length)
    return layers + (2 * size.width * config.embedding_dim if config.text_head else 0)
