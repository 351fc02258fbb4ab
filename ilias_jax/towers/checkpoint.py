"""Reads a checkpoint in either format, which its first bytes tell."""

import zipfile
from typing import IO, Literal

import numpy as np
from etils import epath

from ilias_jax.errors import UserError
from ilias_jax.towers import big_vision, timm_arrays, timm_names
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
    kind = _kind(path)
    if kind == "torch":
        raise UserError(f"{path} is a PyTorch file; {_FORMATS}")
    if kind == "unknown":
        raise UserError(f"{path} is no checkpoint, or only a part of one; {_FORMATS}")
    if kind == "npz":
        return big_vision.load(path, config, towers)
    tensors = read_tensors(path)
    found = timm_names.towers_of(tensors)
    if found is None:
        first = ", ".join(sorted(tensors)[:3])
        raise UserError(
            f"{path} has names of neither timm nor open_clip ({first}, ...); {_FORMATS}"
        )
    if towers == "both" and found == "image":
        raise UserError(
            f"{path} has no text tower, by its names it is timm's of an image tower: run image "
            "queries alone with model.towers=image, or give a file of both towers"
        )
    return timm_arrays.from_arrays(tensors, config, str(path), towers)


def _kind(path: epath.Path) -> Literal["npz", "safetensors", "torch", "unknown"]:
    """What a file is, by its first bytes."""
    with path.open("rb") as file:
        start = file.read(9)
        if start.startswith(b"PK"):
            return "torch" if zipfile.is_zipfile(file) and _is_torch_zip(file) else "npz"
    # A safetensors file begins with the length of its header, eight bytes of which the first may be
    # any, a pickle's too, and goes on with the header's JSON.
    if start.endswith(b"{"):
        return "safetensors"
    return "torch" if start.startswith(b"\x80") else "unknown"


def _is_torch_zip(file: IO[bytes]) -> bool:
    """Whether a zip archive is a PyTorch file: a pickle beside folders of data."""
    with zipfile.ZipFile(file) as archive:
        return any(name.endswith("/data.pkl") for name in archive.namelist())
