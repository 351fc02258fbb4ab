"""SigLIP (Zhai et al., 2023) and SigLIP 2 (Tschannen et al., 2025) as rows of the general towers.

A ViT image tower without class token, pooled by a MAP head, and a bidirectional text tower.
"""

import jax
import jax.numpy as jnp

from ilias_jax.towers.layers import Activation, Style, Width
from ilias_jax.towers.text import TextConfig
from ilias_jax.towers.two_towers import TowersConfig
from ilias_jax.towers.vit import VitConfig

_NORM_EPSILON = 1e-6  # flax's default, which big_vision uses throughout


def siglip(
    image: Width,
    text: Width,
    patch_size: int,
    native_grid: int,
    vocab_size: int,
    text_length: int = 64,
    activation: Activation = "gelu_tanh",
    text_head: bool = True,
    naflex: bool = False,
) -> TowersConfig:
    """The architecture of a SigLIP model.

    Args:
        image: sizes of the image tower; the image embedding has `image.width` channels.
        text: sizes of the text tower.
        patch_size: side of a square patch in pixels.
        native_grid: side of the learned position grid (training resolution / patch size).
        vocab_size: number of text tokens.
        text_length: tokens of a text, padding included.
        activation: of both towers: "gelu_tanh" as trained by big_vision, "gelu_exact" as timm runs
            most of these models.
        text_head: whether a dense layer follows the text tower. Without one the text tower is as
            wide as the image tower.
        naflex: whether the model was trained on images of any shape (NaFlex, SigLIP 2): its
            position grid is resampled bilinearly instead of bicubically.

    Raises:
        ValueError: the two towers would give vectors of different lengths.
    """
    return TowersConfig(
        VitConfig(
            image,
            patch_size,
            native_grid,
            Style(activation, _NORM_EPSILON),
            class_token=False,
            position="bilinear" if naflex else "bicubic",
            pool="map",
        ),
        TextConfig(
            text,
            vocab_size,
            image.width,
            text_length,
            Style(activation, _NORM_EPSILON),
            head="dense" if text_head else "none",
        ),
        sigmoid_loss=True,
    )


def l2_normalize(x: jax.Array, epsilon: float = 1e-12) -> jax.Array:
    """Divides [..., D] float32 by max(norm, epsilon) over the last axis."""
    return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), epsilon)
