"""Reads a checkpoint of any format into our parameters; its bytes and its names tell which."""

import math

import numpy as np
from etils import epath

from ilias_jax.models.checkpoints.flax_names import from_big_vision, from_scenic
from ilias_jax.models.checkpoints.formats import read_arrays
from ilias_jax.models.checkpoints.torch_names import from_torch, unwrapped
from ilias_jax.models.dual_encoder import DualEncoderConfig, Towers

_READERS = {"npz": from_big_vision, "msgpack": from_scenic}


def load_checkpoint(
    path: epath.PathLike, config: DualEncoderConfig, towers: Towers = "both"
) -> dict[str, np.ndarray]:
    """Reads a checkpoint.

    Args:
        path: of an npz of big_vision, a safetensors or PyTorch file in the names of timm, open_clip
            or the model's authors, or a msgpack of Scenic.
        config: the architecture that the checkpoint must have.
        towers: "image" or "text" to take one tower alone, whatever else is there.

    Returns:
        Path of our parameter -> float32 array of our shape.

    Raises:
        UserError: the file is of no format that is read, is damaged, lacks a tower that is asked
            for, or does not fit the model.
    """
    found = read_arrays(path)
    return _READERS.get(found.format, from_torch)(found.arrays, config, str(path), towers)


def stored_grid(path: epath.PathLike, config: DualEncoderConfig) -> int:
    """Side of the position grid in a file of an image tower in timm's names.

    Args:
        path: of the file.
        config: the architecture, whose own side is given for a file without such a grid.
    """
    image = config.image
    assert image is not None
    for key, value in read_arrays(path).arrays.items():
        if unwrapped(key) == "pos_embed" and value.ndim == 3:
            return math.isqrt(value.shape[1] - image.has_class_position)
    return image.native_grid
