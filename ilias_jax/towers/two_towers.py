"""A model of the table: an image tower, a text tower, or both with what their loss learned."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from ilias_jax.towers.layers import Activation
from ilias_jax.towers.text import TextConfig, TextTower
from ilias_jax.towers.vit import ImageTower, VitConfig


@dataclasses.dataclass(frozen=True)
class TowersConfig:
    """Architecture of a model.

    Attributes:
        image: the image tower; None if it is of no kind that is known here.
        text: the text tower; None without one.
        sigmoid_loss: whether temperature and bias of SigLIP's loss are among the parameters.
    """

    image: VitConfig | None
    text: TextConfig | None = None
    sigmoid_loss: bool = False

    def __post_init__(self) -> None:
        """Raises ValueError if there is no tower, or the two give vectors of different lengths."""
        dims = {tower.embedding_dim for tower in (self.image, self.text) if tower is not None}
        if len(dims) != 1:
            raise ValueError(f"the towers must give vectors of one length, not {sorted(dims)}")

    @property
    def embedding_dim(self) -> int:
        """Channels D of an embedding."""
        tower = self.image or self.text
        assert tower is not None
        return tower.embedding_dim

    def with_activations(self, image: Activation | None, text: Activation | None) -> "TowersConfig":
        """The same with other activations; None keeps a tower's own."""
        towers = self
        if self.image is not None and image is not None:
            style = dataclasses.replace(self.image.style, activation=image)
            towers = dataclasses.replace(towers, image=dataclasses.replace(self.image, style=style))
        if self.text is not None and text is not None:
            style = dataclasses.replace(self.text.style, activation=text)
            towers = dataclasses.replace(towers, text=dataclasses.replace(self.text, style=style))
        return towers


class TwoTowers(nnx.Module):
    """The towers of a model.

    Attributes:
        image, text: the towers; those that the model has.
        t: [1] float32 logarithm of the temperature of SigLIP's loss.
        b: [1] float32 bias of its logits.
    """

    def __init__(
        self, config: TowersConfig, rngs: nnx.Rngs, dtype: jax.typing.DTypeLike = "float32"
    ) -> None:
        if config.image is not None:
            self.image = ImageTower(config.image, jnp.dtype(dtype), rngs)
        if config.text is not None:
            self.text = TextTower(config.text, jnp.dtype(dtype), rngs)
        if config.sigmoid_loss:
            self.t = nnx.Param(jnp.log(jnp.full((1,), 10.0, jnp.float32)))
            self.b = nnx.Param(jnp.full((1,), -10.0, jnp.float32))
