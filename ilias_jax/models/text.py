"""The text transformer of SigLIP (Zhai et al., 2023) and of CLIP (Radford et al., 2021).

SigLIP's attends in both directions over all tokens, padding included, and its last token is the
text's; CLIP's is causal, and the end-of-text token, which has the largest id, is the text's, so
that padding after it is never seen.
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx

from ilias_jax.models.layers import BlockConfig, Encoder, TransformerSize


@dataclasses.dataclass(frozen=True)
class TextConfig:
    """Architecture of a text tower.

    Attributes:
        size: of the transformer.
        vocab_size: number of text tokens.
        embedding_dim: channels D of an embedding.
        length: tokens of a text, padding included.
        block: what the blocks are made of.
        causal: whether it is CLIP's; see above.
        head: the last layer: with a bias, without one, or none, when D is the width.
    """

    size: TransformerSize
    vocab_size: int
    embedding_dim: int
    length: int = 64
    block: BlockConfig = BlockConfig()
    causal: bool = False
    head: Literal["dense", "matrix", "none"] = "dense"

    def __post_init__(self) -> None:
        """Raises ValueError if there is no head and D is not the width."""
        if self.head == "none" and self.size.width != self.embedding_dim:
            raise ValueError(
                f"without a head the text tower's width={self.size.width} must be that of the "
                f"embeddings, {self.embedding_dim}"
            )


class TextTower(nnx.Module):
    """A text transformer; see `TextConfig`."""

    def __init__(self, config: TextConfig, dtype: jnp.dtype, rngs: nnx.Rngs) -> None:
        width, init = config.size.width, nnx.initializers.normal(config.size.width**-0.5)
        self.embedding = nnx.Embed(config.vocab_size, width, dtype=dtype, rngs=rngs)
        self.position = nnx.Param(init(rngs.params(), (config.length, width), jnp.float32))
        self.encoder = Encoder(config.size, config.block, dtype, rngs, causal=config.causal)
        if config.head != "none":
            has_bias = config.head == "dense"
            self.head = nnx.Linear(
                width, config.embedding_dim, use_bias=has_bias, dtype=dtype, rngs=rngs
            )
        self.config = config

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Embeds tokens [B, L] int32 to [B, D] float32, unnormalised."""
        x = self.embedding(tokens)
        x = self.encoder((x.astype(jnp.float32) + self.position[...]).astype(x.dtype))
        if self.config.causal:
            end = jnp.argmax(tokens, axis=1)
            pooled = jnp.take_along_axis(x, end[:, None, None], axis=1)[:, 0]
        else:
            pooled = x[:, -1]
        return (self.head(pooled) if self.config.head != "none" else pooled).astype(jnp.float32)
