"""Our CNNs with the weights of a `cnn_cases.CnnCase`, run as the program runs them."""

import dataclasses
import functools
import json
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import parity_weights as seeded
from cnn_cases import CNNS, CnnCase

from ilias_jax.embeddings.extract import images_forward
from ilias_jax.model import Model
from ilias_jax.models.checkpoints.torch_names import from_torch
from ilias_jax.models.cnn.efficientnet import EfficientNetConfig
from ilias_jax.models.dual_encoder import DualEncoderConfig
from ilias_jax.models.load import tower_model
from ilias_jax.models.registry.registry import VARIANTS
from ilias_jax.preprocessing.decode import decode, resize

# Depth and width that timm's rounding gives the stages of a reduced EfficientNet.
_NARROW = ((1, 8), (1, 8), (1, 16), (2, 24), (2, 32), (2, 48), (1, 80))


@functools.cache
def stored(name: str) -> dict[str, np.ndarray]:
    """The file of expected values of a case."""
    with np.load(CNNS[name].path, allow_pickle=False) as archive:
        return dict(archive)


def arrays(case: CnnCase) -> dict[str, np.ndarray]:
    """The drawn weights by the reference's names."""
    layout = json.loads(stored(case.name)["layout"].tobytes())
    return dict(case.draw({name: tuple(shape) for name, shape in layout.items()}))


def architecture(case: CnnCase) -> DualEncoderConfig:
    """The row's image tower, as small as the case."""
    image, changes = VARIANTS[case.row].architecture.image, dict(case.ours)
    if isinstance(image, EfficientNetConfig) and changes:
        narrow = zip(image.stages, _NARROW, strict=True)
        changes["stages"] = tuple(
            dataclasses.replace(stage, depth=depth, outputs=outputs)
            for stage, (depth, outputs) in narrow
        )
    return DualEncoderConfig(dataclasses.replace(image, **changes))


@functools.lru_cache(maxsize=2)
def model(name: str, dtype: str = "float32") -> Model:
    """What the program makes of a case, its weights through the program's table."""
    case = CNNS[name]
    config = architecture(case)
    parameters = from_torch(arrays(case), config, name, "image")
    normalization = VARIANTS[case.row].normalization
    resolution = case.pictures.resolution
    return tower_model(
        name, config, parameters, None, resolution, dtype, {}, normalization=normalization
    )


@functools.cache
def resized(name: str) -> list[np.ndarray]:
    """The pictures of a case after the official resize, [H, W, 3] uint8 each."""
    case = CNNS[name]
    decoded = [decode(seeded.png(one), exif_transpose=True) for one in case.pictures.arrays()]
    return [resize(one, case.pictures.resolution) for one in decoded]


def on_one_canvas(name: str, dtype: str = "float32", outside: int = 255) -> np.ndarray:
    """[N, D] float32, unnormalised: all pictures in one batch on the square canvas.

    Pixels outside of the pictures are `outside`, which no output may show.
    """
    one, side = model(name, dtype), CNNS[name].pictures.resolution
    canvas = np.full((len(resized(name)), side, side, 3), outside, np.uint8)
    for square, picture in zip(canvas, resized(name), strict=True):
        square[: len(picture), : picture.shape[1]] = picture
    sizes = jnp.asarray([picture.shape[:2] for picture in resized(name)], jnp.int32)
    return np.asarray(_forward(name, dtype)(one.parameters, jnp.asarray(canvas), sizes))


def alone(name: str, number: int) -> np.ndarray:
    """[D] float32: one picture on a canvas of its own size."""
    one, picture = model(name), resized(name)[number]
    sizes = jnp.asarray([picture.shape[:2]], jnp.int32)
    return np.asarray(_forward(name)(one.parameters, jnp.asarray(picture)[None], sizes))[0]


@functools.lru_cache(maxsize=4)
def _forward(name: str, dtype: str = "float32") -> Callable[..., jax.Array]:
    return jax.jit(functools.partial(images_forward, model(name, dtype)))
