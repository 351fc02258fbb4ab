"""A model of the table: an image tower, a text tower, or both with what their loss learned.

The text transformer is that of SigLIP (Zhai et al., 2023), which attends in both directions over
all tokens, padding included, and whose last token is the text's; or that of CLIP (Radford et al.,
2021), which is causal: the end-of-text token, which has the largest id, is the text's, so that
padding after it is never seen. `bind` makes towers functions of their parameters.
"""

import dataclasses
import functools
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any, Literal, Protocol, Self

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from flax.traverse_util import unflatten_dict

from ilias_jax.model import Parameters, TextFunction
from ilias_jax.models.attention import Choice
from ilias_jax.models.cnn.maps import Conv, Kernels
from ilias_jax.models.layers import (
    Activation,
    BlockConfig,
    Encoder,
    TransformerSize,
    residual,
)


class ImageConfig(Hashable, Protocol):
    """Architecture of an image tower: `VitConfig`, or that of a CNN."""

    @property
    def patch_size(self) -> int:
        """Of the preprocessing, as are the two others."""

    @property
    def whole(self) -> bool:
        """See `Preprocessing`."""

    @property
    def min_side(self) -> int:
        """See `Preprocessing`."""

    @property
    def embedding_dim(self) -> int:
        """Channels D of an embedding."""

    @property
    def activation(self) -> Activation:
        """Of its hidden layers."""

    def with_activation(self, activation: Activation) -> Self:
        """The same with another one."""

    def tower(self, dtype: jnp.dtype, rngs: nnx.Rngs) -> nnx.Module:
        """The module: (pixels, grid, max_side) -> [B, D] float32 as `Model.embed_images`."""


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

    @property
    def activation(self) -> Activation:
        """Of the MLPs."""
        return self.block.activation

    def with_activation(self, activation: Activation) -> "TextConfig":
        """The same with another one."""
        return dataclasses.replace(
            self, block=dataclasses.replace(self.block, activation=activation)
        )

    def __post_init__(self) -> None:
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
            dense = functools.partial(nnx.Linear, use_bias=config.head == "dense", dtype=dtype)
            self.head = dense(width, config.embedding_dim, rngs=rngs)
        self.config = config

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Embeds tokens [B, L] int32 to [B, D] float32, unnormalised."""
        x = self.embedding(tokens)
        x = self.encoder(residual(x.astype(jnp.float32) + self.position[...], x.dtype))
        if self.config.causal:
            end = jnp.argmax(tokens, axis=1)
            pooled = jnp.take_along_axis(x, end[:, None, None], axis=1)[:, 0]
        else:
            pooled = x[:, -1]
        return (self.head(pooled) if self.config.head != "none" else pooled).astype(jnp.float32)


Towers = Literal["both", "image", "text"]
_MATRICES = (".kernel", "text.embedding.embedding")


@dataclasses.dataclass(frozen=True)
class DualEncoderConfig:
    """Architecture of a model.

    Attributes:
        image: the image tower; None if it is of no kind that is known here.
        text: the text tower, whose vectors are as long; None without one.
        sigmoid_loss: whether temperature and bias of SigLIP's loss are among the parameters.
    """

    image: ImageConfig | None
    text: TextConfig | None = None
    sigmoid_loss: bool = False

    @property
    def towers(self) -> Towers:
        """Those that the model has."""
        if self.text is None:
            return "image"
        return "text" if self.image is None else "both"

    @property
    def embedding_dim(self) -> int:
        """Channels D of an embedding."""
        tower = self.image or self.text
        assert tower is not None
        return tower.embedding_dim

    def with_activations(
        self, image: Activation | None, text: Activation | None
    ) -> "DualEncoderConfig":
        """The same with other activations; None keeps a tower's own."""
        changed: dict[str, Any] = {}
        for name, tower, activation in (("image", self.image, image), ("text", self.text, text)):
            if tower is not None and activation is not None:
                changed[name] = tower.with_activation(activation)
        return dataclasses.replace(self, **changed)


class DualEncoder(nnx.Module):
    """The towers of a model.

    Attributes:
        image, text: the towers; those that the model has.
        t: [1] float32 logarithm of the temperature of SigLIP's loss.
        b: [1] float32 bias of its logits.
    """

    def __init__(
        self, config: DualEncoderConfig, rngs: nnx.Rngs, dtype: jax.typing.DTypeLike = "float32"
    ) -> None:
        if config.image is not None:
            self.image = config.image.tower(jnp.dtype(dtype), rngs)
        if config.text is not None:
            self.text = TextTower(config.text, jnp.dtype(dtype), rngs)
        if config.sigmoid_loss:
            self.t = nnx.Param(jnp.log(jnp.full((1,), 10.0, jnp.float32)))
            self.b = nnx.Param(jnp.full((1,), -10.0, jnp.float32))


def bind(
    architecture: DualEncoderConfig,
    dtype: str,
    parameters: Parameters,
    attention: Choice = "auto",
    prepared: Sequence[Kernels] = (),
) -> DualEncoder:
    """The module around parameters (path -> array); allocates nothing, also while being traced.

    `dtype` is that of the computation; `attention` changes rounding alone; `prepared` is what
    `prepare` gave for a module of the same parameters.
    """
    module = nnx.eval_shape(lambda: DualEncoder(architecture, nnx.Rngs(0), jnp.dtype(dtype)))
    state = nnx.state(module, nnx.Param)
    nnx.replace_by_pure_dict(state, unflatten_dict(parameters, sep="."))
    nnx.update(module, state)
    module.set_attributes(choice=attention, raise_if_not_found=False)
    for convolution, kernels in zip(_convolutions(module), prepared, strict=False):
        convolution.transformed = nnx.data(kernels)
    return module


def prepare(module: DualEncoder) -> list[Kernels]:
    """What convolutions make of their kernels once, for all images that go through them."""
    return [convolution.transform() for convolution in _convolutions(module)]


def _convolutions(module: DualEncoder) -> Iterator[Conv]:
    return (part for _, part in nnx.iter_modules(module) if isinstance(part, Conv))


def matmul_precision(dtype: str) -> str:
    """Of the matrix products in a computation of this dtype."""
    return "highest" if dtype == "float32" else "default"


def text_function(
    architecture: DualEncoderConfig, dtype: str, attention: Choice = "auto"
) -> TextFunction:
    """(parameters, tokens [B, L] int32) -> [B, D] float32, unnormalised; arguments as `bind`."""

    def embed_texts(parameters: Parameters, tokens: jax.Array) -> jax.Array:
        with jax.default_matmul_precision(matmul_precision(dtype)):
            return bind(architecture, dtype, parameters, attention).text(tokens)

    return embed_texts


def stored(parameters: Mapping[str, np.ndarray], dtype: str) -> dict[str, np.ndarray]:
    """Matrices in the dtype that they are multiplied in: half the memory, and the same result.

    Norms, biases, positions and the probe are small, and partly added in float32.
    """
    return {
        path: value.astype(dtype) if path.endswith(_MATRICES) else value
        for path, value in parameters.items()
    }
