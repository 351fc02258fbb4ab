"""Operations of the towers: those of their matrix products, an addition being one too.

Norms, activations and softmax are left out; they are below a hundredth of the sum.
"""

from ilias_jax.towers.layers import Style, Width
from ilias_jax.towers.text import TextConfig
from ilias_jax.towers.vit import VitConfig


def _layer_flops(size: Width, style: Style, num_tokens: int) -> int:
    """A transformer block over a sequence: four projections, attention, MLP."""
    mlp = (6 if style.gated_mlp else 4) * num_tokens * size.width * size.mlp_dim
    return 8 * num_tokens * size.width**2 + 4 * num_tokens**2 * size.width + mlp


def image_flops(config: VitConfig, num_patches: int) -> int:
    """The image tower over one image padded to `num_patches`, position embedding and all."""
    size, channels = config.size, config.patch_size**2 * 3
    width, cells = size.width, config.native_grid**2
    num_tokens = config.num_prefix + num_patches
    patches = 2 * num_patches * channels * width
    position = 2 * num_patches * cells * width if config.position is not None else 0
    layers = size.depth * _layer_flops(size, config.style, num_tokens)
    head = 0 if config.head is None else 2 * width * config.head.dim
    if config.pool == "map":
        # The one query attends to all tokens: projections of keys and values of all of them, of
        # the query and of the result once.
        head += 4 * num_tokens * width**2 + 4 * width**2
        head += 4 * num_tokens * width + 4 * width * size.mlp_dim
    if config.pool == "flatten":
        head += 2 * cells * num_patches * width + 2 * cells * width**2
    return patches + position + layers + head


def text_flops(config: TextConfig) -> int:
    """The text tower over one text, padding included."""
    size = config.size
    layers = size.depth * _layer_flops(size, config.style, config.length)
    return layers + (2 * size.width * config.embedding_dim if config.head != "none" else 0)
