"""The architecture of the seeded small SigLIP of `parity_weights`, for all tests that load it."""

import re

import numpy as np
import parity_weights as seeded

from ilias_jax.models.layers import TransformerSize
from ilias_jax.models.registry.siglip import siglip

SIZES = {
    "image": TransformerSize(**seeded.IMAGE),
    "text": TransformerSize(**seeded.TEXT),
    "patch_size": seeded.PATCH,
    "native_grid": seeded.NATIVE_GRID,
    "vocab_size": seeded.VOCAB,
    "text_length": seeded.TEXT_LENGTH,
}
CONFIG = siglip(**SIZES)


def stacked(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A big_vision checkpoint in its other layout: the blocks of an encoder in one array."""
    groups: dict[str, list[np.ndarray]] = {}
    for key, value in arrays.items():
        groups.setdefault(re.sub(r"encoderblock_\d+/", "encoderblock/", key), []).append(value)
    return {k: np.stack(v) if "encoderblock/" in k else v[0] for k, v in groups.items()}
