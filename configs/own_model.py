"""A model of your own: the recipe, the model and the function that the recipe names, in one file.

    python main.py --config configs/own_model.py
    python main.py --config configs/own_model.py --config.model.factory_args.width=128

The network takes squares of one size, and every picture comes padded to one: a single patch. A
network that runs at any grid takes `pixels` [B, T, patch x patch x 3] and `grid` [B, 2] as they
come, with a smaller `patch_size`. In `flax.linen`, `network.init(key, images)` makes the parameters
and `network.apply(parameters, images)` runs it.

Cost: half a minute on two CPU cores; the demo's world is generated first where it is not there yet.
Expected: image-to-image mAP@1000 0.8 with the untrained network. It has no text tower, so there is
no text-to-image.
"""

import jax
import jax.numpy as jnp
import ml_collections
from flax import nnx

from ilias_jax.model import Model, Preprocessing, parameters_sha256, to_images


class Network(nnx.Module):
    """Two convolutions and their largest responses."""

    def __init__(self, width: int, rngs: nnx.Rngs) -> None:
        self.first = nnx.Conv(3, width, (7, 7), strides=4, rngs=rngs)
        self.second = nnx.Conv(width, 2 * width, (3, 3), strides=2, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        """[B, H, W, 3] -> [B, D]."""
        return self.second(nnx.relu(self.first(images))).max(axis=(1, 2))


def build(resolution: int = 64, width: int = 64, seed: int = 0) -> Model:
    """The model; weights would be read from a file here."""
    network, parameters = nnx.split(Network(width, nnx.Rngs(seed)))

    def embed_images(parameters: nnx.State, pixels: jax.Array, grid: jax.Array) -> jax.Array:
        images = to_images(pixels, grid, side=1, patch_size=resolution)
        return nnx.merge(network, parameters)(images).astype(jnp.float32)

    return Model(
        name=f"two convolutions of {width} and {2 * width} channels, untrained",
        parameters=parameters,
        preprocessing=Preprocessing(resolution, patch_size=resolution),
        embed_images=embed_images,
        embed_texts=None,
        tokenize=None,
        fingerprint={"sha256": parameters_sha256(parameters)},
    )


def get_config() -> ml_collections.ConfigDict:
    """The recipe; what it leaves out has its default."""
    world = {"seed": 7, "num_objects": 100, "num_image_queries": 120, "num_positives": 450}
    world |= {"num_distractors": 5000, "num_tars": 10}
    return ml_collections.ConfigDict(
        {
            "dataset": {"name": "miniature world 7", "data_dir": "runs/worlds/7", "world": world},
            "model": {
                "name": "own",
                "factory": __file__ + ":build",
                "factory_args": {"width": 64, "seed": 0},
                "resolution": 64,
            },
            "embed": {"batch_size_per_device": 32, "num_buckets": 1},
        }
    )
