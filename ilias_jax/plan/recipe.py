"""What a recipe says that a plan depends on, without reading a weight."""

import dataclasses
import math

from ilias_jax.config import BenchmarkConfig
from ilias_jax.errors import UserError
from ilias_jax.extraction import canvas_side
from ilias_jax.model import Preprocessing
from ilias_jax.pixels.views import is_untouched
from ilias_jax.plan import tokens
from ilias_jax.plan.flops import image_flops, text_flops
from ilias_jax.towers.choice import require_images
from ilias_jax.towers.parameters import count_parameters
from ilias_jax.towers.two_towers import TowersConfig
from ilias_jax.towers.vit import VitConfig

_ITEM_BYTES = {"float16": 2, "float32": 4, "bfloat16": 2}


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A configuration with its model's sizes.

    Attributes:
        config: the configuration.
        architecture: of the model, with the configured activation.
        preprocessing: at the configured resolution.
        num_parameters: of the towers that run.
    """

    config: BenchmarkConfig
    architecture: TowersConfig
    preprocessing: Preprocessing
    num_parameters: int

    @property
    def image(self) -> VitConfig:
        """The image tower."""
        assert self.architecture.image is not None  # `read_recipe` saw to it
        return self.architecture.image

    @property
    def text_flops(self) -> int:
        """Operations of the text tower over one text; 0 without one."""
        text = self.architecture.text
        return 0 if text is None else text_flops(text)

    @property
    def dim(self) -> int:
        """D, channels of an embedding."""
        return self.architecture.embedding_dim

    @property
    def parameter_bytes(self) -> int:
        """Bytes of the parameters, float32 on the host and on the devices."""
        return 4 * self.num_parameters

    @property
    def stored_bytes(self) -> int:
        """Bytes of a stored number."""
        return _ITEM_BYTES[self.config.embed.storage_dtype]

    @property
    def lengths(self) -> tuple[int, ...]:
        """Token lengths that images are padded to, rising."""
        config = self.config
        return tokens.lengths_of(self.preprocessing, config.views, config.embed)

    @property
    def patch_bytes(self) -> int:
        """Bytes of a distractor's patch that was cut on the host: uint8, or float32 for views."""
        item = 1 if is_untouched(self.config.views.of("distractor")) else 4
        return self.preprocessing.patch_size**2 * 3 * item

    @property
    def canvas(self) -> int:
        """Side of the canvas that distractors go to the device in, 0 if they go as patches."""
        if not is_untouched(self.config.views.of("distractor")):
            return 0
        return canvas_side(self.config.embed, self.preprocessing)

    def image_bytes(self, length: int) -> int:
        """Bytes of a distractor of so many tokens in a batch."""
        return self.canvas**2 * 3 if self.canvas else length * self.patch_bytes

    def shares(self, aspects: tokens.Aspects) -> dict[int, float]:
        """Share of the views by token length."""
        return tokens.shares(aspects, self.preprocessing, self.config.views, self.lengths)

    def mean_image_flops(self, aspects: tokens.Aspects) -> float:
        """Operations of a mean image, its views and padding included."""
        flops = {length: image_flops(self.image, length) for length in self.lengths}
        mean = math.fsum(share * flops[length] for length, share in self.shares(aspects).items())
        return self.config.views.num_views * mean

    def describe(self) -> dict[str, object]:
        """What the plan says of the recipe, by name."""
        config = self.config
        return {
            "model": config.model.name,
            "parameters": self.num_parameters,
            "embedding_dim": self.dim,
            "resolution": self.preprocessing.resolution,
            "token_lengths": list(self.lengths),
            "gflop_per_image": self.mean_image_flops(tokens.PHOTO_ASPECTS) / 1e9,
            "gflop_per_text": self.text_flops / 1e9,
            "dtype": config.model.dtype,
            "views": config.views.num_views,
            "canvas": self.canvas,
            "batch_size_per_device": config.embed.batch_size_per_device,
            "storage_dtype": config.embed.storage_dtype,
            "backend": config.search.backend,
            "k": config.search.k,
            "block_rows": config.search.block_rows,
            "num_resamples": config.metrics.num_resamples,
        }


def read_recipe(config: BenchmarkConfig) -> Recipe:
    """Looks the model of a configuration up.

    Raises:
        UserError: there is no such model, or it is the user's own.
    """
    if config.model.factory:
        raise UserError(
            f"model.factory={config.model.factory}: a plan counts the operations of the table's "
            "models and knows none of others; run the demo's world instead"
        )
    variant = require_images(config.model)
    architecture = variant.architecture_with(config.model.activation)
    if config.model.towers == "image":
        architecture = dataclasses.replace(architecture, text=None, sigmoid_loss=False)
    assert architecture.image is not None  # `require_images` saw to it
    how = Preprocessing(
        config.model.resolution or variant.test_resolution,
        architecture.image.patch_size,
        *variant.normalization,
        max_scale=config.views.max_scale,
    )
    loss = 2 if architecture.sigmoid_loss else 0  # its temperature and its bias
    return Recipe(config, architecture, how, sum(count_parameters(architecture)) + loss)
