"""Reads a checkpoint of any format into our parameters; its bytes and its names tell which."""

import math
from collections.abc import Mapping

import numpy as np
from etils import epath

from ilias_jax.errors import UserError
from ilias_jax.towers import big_vision, scenic, torch_arrays, torch_names
from ilias_jax.towers.arrays import Format, format_of, read_arrays
from ilias_jax.towers.parameters import Towers
from ilias_jax.towers.two_towers import TowersConfig


def load_checkpoint(
    path: epath.PathLike, config: TowersConfig, towers: Towers = "both"
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
    path = epath.Path(path)
    if path.exists() and format_of(path) == "npz":
        return big_vision.load(path, config, towers)
    found = read_arrays(path)
    if found.format == "msgpack":
        return scenic.from_arrays(found.arrays, config, str(path), towers)
    _check_names(path, found.arrays, found.format, towers)
    return torch_arrays.from_arrays(found.arrays, config, str(path), towers)


def _check_names(
    path: epath.Path, arrays: Mapping[str, np.ndarray], kind: Format, towers: Towers
) -> None:
    """Raises UserError unless a file has the towers that are asked for, by its names."""
    names = torch_names.names_of(torch_names.unwrapped(key) for key in arrays)
    if names.towers is None:
        first = ", ".join(sorted(arrays)[:3])
        raise UserError(
            f"{path} has names of no known model ({first}, ...); a {kind} file should have "
            "those of timm, open_clip or CLIP"
        )
    if names.towers == "image" and towers != "image":
        raise UserError(
            f"{path} has no text tower, by its names it is an image tower's: run image queries "
            "alone with model.towers=image, or give a file of both towers, or one of the text "
            "tower as model.text_checkpoint"
        )
    if names.towers == "text" and towers != "text":
        raise UserError(f"{path} has no image tower of a known kind, by its names a text tower's")


def stored_grid(path: epath.PathLike, config: TowersConfig) -> int:
    """Side of the position grid in a file of an image tower in timm's names.

    Args:
        path: of the file.
        config: the architecture, whose own side is given for a file without such a grid.
    """
    image = config.image
    assert image is not None
    for key, value in read_arrays(path).arrays.items():
        if torch_names.unwrapped(key) == "pos_embed" and value.ndim == 3:
            return math.isqrt(value.shape[1] - image.has_class_position)
    return image.native_grid
