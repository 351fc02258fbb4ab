"""A small CLIP in the table's architecture, its drawn weights and its files."""

import pathlib

import numpy as np
import safetensors.numpy
from torch_written import to_torch

from ilias_jax.models.checkpoints import torch_names
from ilias_jax.models.dual_encoder import DualEncoderConfig, TextConfig
from ilias_jax.models.layers import BlockConfig, TransformerSize
from ilias_jax.models.parameters import parameter_shapes
from ilias_jax.models.registry.clip import CLIP_VOCABULARY, clip_image

NAME, PATCH, GRID, DIM, LENGTH = "small_clip", 8, 3, 12, 9
CONFIG = DualEncoderConfig(
    clip_image(TransformerSize(16, 2, 24, 2), PATCH, GRID, "quick_gelu", DIM),
    TextConfig(
        TransformerSize(20, 2, 28, 2),
        CLIP_VOCABULARY.size,
        DIM,
        LENGTH,
        BlockConfig("quick_gelu", 1e-5),
        causal=True,
        head="matrix",
    ),
)
TEXTS = ["a photo of the mug", "<p>the same&amp;", ""]


def parameters(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    drawn = {
        path: rng.normal(scale=0.3, size=shape).astype(np.float32)
        for path, shape in parameter_shapes(CONFIG).items()
    }
    # open_clip's files have no such bias.
    return drawn | {"image.projection.dense.bias": np.zeros(DIM, np.float32)}


def write(path: pathlib.Path, seed: int, names: torch_names.Names, towers: str) -> None:
    arrays = dict(to_torch(parameters(seed), CONFIG, towers, names))
    if towers == "both":
        arrays["logit_scale"] = np.asarray(2.0, np.float32)
    safetensors.numpy.save_file({k: np.array(v, order="C") for k, v in arrays.items()}, path)
