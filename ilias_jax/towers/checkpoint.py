"""Reads a checkpoint in either format, which its first bytes tell."""

import zipfile
from typing import IO

import numpy as np
from etils import epath

from ilias_jax.errors import UserError
from ilias_jax.towers import big_vision, timm_names
from ilias_jax.towers.parameters import Towers
from ilias_jax.towers.siglip import SiglipConfig
from ilias_jax.towers.tensor_file import read_tensors

_FORMATS = (
    "expected an npz of big_vision, or a .safetensors of open_clip (both towers) or timm (image "
    "tower alone)"
)


def load_checkpoint(
    path: epath.PathLike, config: SiglipConfig, towers: Towers = "both"
) -> dict[str, np.ndarray]:
    """Reads a checkpoint.

    Args:
        path: of an npz or safetensors file.
        config: the architecture that the checkpoint must have.
        towers: "image" to take the image tower alone, whatever else is there.

    Returns:
        Path of our parameter -> float32 array of our shape.

    Raises:
        UserError: the file is of no format that is read, is damaged, has no text tower though one
            is asked for, or does not fit the model.
    """
    path = epath.Path(path)
    with path.open("rb") as file:
        start = file.read(16)
        is_zip = zipfile.is_zipfile(file)
        is_torch = start[:1] == b"\x80" or (is_zip and _is_torch_zip(file))
    if is_torch:
        raise UserError(f"{path} is a PyTorch file; {_FORMATS}")
    if is_zip or start[:2] == b"PK":
        return big_vision.load(path, config, towers)
    # A safetensors file begins with the length of its header, eight bytes, and the header's JSON.
    if start[8:9] != b"{":
        raise UserError(f"{path} is no checkpoint, or only a part of one; {_FORMATS}")
    tensors = read_tensors(path)
    if towers == "both" and not timm_names.has_both_towers(tensors):
        raise UserError(
            f"{path} has no text tower (no `visual.trunk.` and `text.` in its names): run image "
            "queries alone with model.towers=image, or give a file of both towers"
        )
    return timm_names.from_arrays(tensors, config, str(path), towers)


def _is_torch_zip(file: IO[bytes]) -> bool:
    """Whether a zip archive is a PyTorch file: a pickle beside folders of data."""
    with zipfile.ZipFile(file) as archive:
        return any(name.endswith("/data.pkl") for name in archive.namelist())
