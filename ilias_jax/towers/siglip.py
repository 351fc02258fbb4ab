"""SigLIP (Zhai et al., 2023): a ViT image tower with a MAP head and a bidirectional text tower."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from ilias_jax.towers.layers import Activation, Attention, Encoder, Mlp, Width, layer_norm
from ilias_jax.towers.position import PositionRule, position_embedding


@dataclasses.dataclass(frozen=True)
class SiglipConfig:
    """Architecture of a two-tower model.

    Attributes:
        image: sizes of the image tower; the image embedding has `image.width` channels.
        text: sizes of the text tower.
        patch_size: side of a square patch in pixels.
        native_grid: side of the learned position grid (training resolution / patch size).
        vocab_size: number of text tokens.
        text_length: tokens of a text, padding included.
        activation: of the image tower: "gelu_tanh" as trained by big_vision, "gelu_exact" as timm
            runs most of these models.
        text_activation: of the text tower; None for the image tower's.
        text_head: whether a dense layer follows the text tower. Without one the text tower is as
            wide as the image tower.
        naflex: whether the model was trained on images of any shape (NaFlex, SigLIP 2): its
            position grid is resampled bilinearly instead of bicubically.
    """

    image: Width
    text: Width
    patch_size: int
    native_grid: int
    vocab_size: int
    text_length: int = 64
    activation: Activation = "gelu_tanh"
    text_activation: Activation | None = None
    text_head: bool = True
    naflex: bool = False

    def __post_init__(self) -> None:
        """Raises ValueError if the two towers would give vectors of different lengths."""
        if not self.text_head and self.text.width != self.image.width:
            raise ValueError(
                f"without text_head the text tower's width={self.text.width} must be the image "
                f"tower's, {self.image.width}"
            )

    @property
    def position_rule(self) -> PositionRule:
        """How the learned position grid is resampled."""
        return "bilinear" if self.naflex else "bicubic"

    @property
    def embedding_dim(self) -> int:
        """Channels D of both towers' embeddings."""
        return self.image.width


class MapHead(nnx.Module):
    """Multihead attention pooling: a learned probe attends to all tokens (big_vision MAPHead)."""

    def __init__(
        self, size: Width, activation: Activation, dtype: jnp.dtype, rngs: nnx.Rngs
    ) -> None:
        init = nnx.initializers.xavier_uniform()
        self.probe = nnx.Param(init(rngs.params(), (1, 1, size.width), jnp.float32))
        self.attention = Attention(size, dtype, rngs)
        self.norm = layer_norm(size.width, dtype, rngs)
        self.mlp = Mlp(size, activation, dtype, rngs)

    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        """Pools tokens [B, T, D] to [B, D] float32; mask [B, T] is True for real tokens."""
        probe = jnp.broadcast_to(self.probe[...].astype(x.dtype), (x.shape[0], 1, x.shape[2]))
        pooled = self.attention(probe, x, mask)
        added = self.mlp(self.norm(pooled))
        return (pooled.astype(jnp.float32) + added.astype(jnp.float32))[:, 0]


class ImageTower(nnx.Module):
    """ViT without class token, pooled by a MAP head; any grid runs, padded tokens are masked."""

    def __init__(self, config: SiglipConfig, dtype: jnp.dtype, rngs: nnx.Rngs) -> None:
        self.config = config
        size, side = config.image, config.native_grid
        self.embedding = nnx.Linear(config.patch_size**2 * 3, size.width, dtype=dtype, rngs=rngs)
        self.position = nnx.Param(
            nnx.initializers.normal(size.width**-0.5)(
                rngs.params(), (side, side, size.width), jnp.float32
            )
        )
        self.encoder = Encoder(size, config.activation, dtype, rngs)
        self.head = MapHead(size, config.activation, dtype, rngs)

    def __call__(self, patches: jax.Array, grid: jax.Array, max_side: int) -> jax.Array:
        """Embeds a batch of images.

        Args:
            patches: [B, T, patch x patch x 3] normalised pixels in row-major token order; tokens
                beyond rows x columns are ignored.
            grid: [B, 2] int32 rows and columns of patches, rows x columns <= T.
            max_side: largest side of any grid, a Python integer.

        Returns:
            [B, D] float32, unnormalised.
        """
        num_tokens = patches.shape[1]
        mask = jnp.arange(num_tokens)[None, :] < (grid[:, :1] * grid[:, 1:])
        x = self.embedding(patches)
        rule = self.config.position_rule
        position = position_embedding(self.position[...], grid, num_tokens, max_side, rule)
        x = (x.astype(jnp.float32) + position).astype(x.dtype)
        return self.head(self.encoder(x, mask), mask)


class TextTower(nnx.Module):
    """Bidirectional transformer over all text tokens, padding included, pooled at the last one."""

    def __init__(self, config: SiglipConfig, dtype: jnp.dtype, rngs: nnx.Rngs) -> None:
        size = config.text
        self.embedding = nnx.Embed(config.vocab_size, size.width, dtype=dtype, rngs=rngs)
        self.position = nnx.Param(
            nnx.initializers.normal(size.width**-0.5)(
                rngs.params(), (config.text_length, size.width), jnp.float32
            )
        )
        self.encoder = Encoder(size, config.text_activation or config.activation, dtype, rngs)
        self.has_head = config.text_head
        if config.text_head:
            self.head = nnx.Linear(size.width, config.embedding_dim, dtype=dtype, rngs=rngs)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Embeds tokens [B, L] int32 to [B, D] float32, unnormalised."""
        x = self.embedding(tokens)
        x = self.encoder((x.astype(jnp.float32) + self.position[...]).astype(x.dtype))
        last = x[:, -1]
        return (self.head(last) if self.has_head else last).astype(jnp.float32)


class Siglip(nnx.Module):
    """Both towers with the temperature and bias of the sigmoid loss.

    Attributes:
        image, text: the towers.
        t: [1] float32 logarithm of the temperature.
        b: [1] float32 bias of the logits.
    """

    def __init__(
        self, config: SiglipConfig, rngs: nnx.Rngs, dtype: jax.typing.DTypeLike = "float32"
    ) -> None:
        self.image = ImageTower(config, jnp.dtype(dtype), rngs)
        self.text = TextTower(config, jnp.dtype(dtype), rngs)
        self.t = nnx.Param(jnp.log(jnp.full((1,), 10.0, jnp.float32)))
        self.b = nnx.Param(jnp.full((1,), -10.0, jnp.float32))


def l2_normalize(x: jax.Array, epsilon: float = 1e-12) -> jax.Array:
    """Divides [..., D] float32 by max(norm, epsilon) over the last axis."""
    return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), epsilon)
