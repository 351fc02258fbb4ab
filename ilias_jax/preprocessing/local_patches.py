"""Images whose sides become multiples of the patch size, each by its own factor."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from PIL import Image

from ilias_jax.dataset.layout import Box
from ilias_jax.model import Preprocessing
from ilias_jax.preprocessing.decode import Patches, decode, to_patches
from ilias_jax.preprocessing.views import union_of_boxes

Filter = Literal["area_linear", "bicubic"]


def jpeg_to_local_patches(
    jpeg: bytes,
    boxes: Sequence[Box],
    preprocessing: Preprocessing,
    filter: Filter,
    exif_transpose: bool,
) -> Patches:
    image = decode(jpeg, exif_transpose)
    longest, patch = max(image.size), preprocessing.patch_size
    if boxes:
        image = image.crop(union_of_boxes(boxes, image.size))
    size = tuple(
        patch * max(1, round(side * preprocessing.resolution / longest / patch))
        for side in image.size
    )
    return to_patches(np.asarray(image.resize(size, Image.Resampling.BICUBIC)), patch)
