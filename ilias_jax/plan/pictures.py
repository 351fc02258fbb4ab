"""Pictures for measuring: JPEGs like YFCC's in size and detail, and some of a miniature world."""

import functools
import io

import numpy as np
from PIL import Image

from ilias_jax.config import WorldConfig
from ilias_jax.dataset.world.generate import world_things
from ilias_jax.dataset.world.picture import sample_view, take_picture
from ilias_jax.dataset.world.things import Thing

PHOTO_SIZE = (500, 375)
_QUALITY = 90
_GRAIN = 5.8  # standard deviation of the noise; with it a photograph takes about 63 kB


def photograph(seed: int) -> bytes:
    """A JPEG of 500 x 375 pixels: soft shapes under noise, so that it takes about 63 kB."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)
    smooth = Image.fromarray(coarse).resize(PHOTO_SIZE, Image.Resampling.BICUBIC)
    noise = rng.normal(0, _GRAIN, (PHOTO_SIZE[1], PHOTO_SIZE[0], 1))
    pixels = np.clip(np.asarray(smooth) + noise, 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=_QUALITY)
    return buffer.getvalue()


def world_picture(seed: int) -> bytes:
    """A JPEG of the demo's world."""
    rng = np.random.default_rng([seed, 1])
    things = _things()
    thing = things[int(rng.integers(len(things)))]
    return take_picture(rng, thing, sample_view(rng, seed % 4), orientation=1).jpeg


@functools.cache
def _things() -> list[Thing]:
    return world_things(WorldConfig(num_objects=8, num_image_queries=8, num_positives=8))
