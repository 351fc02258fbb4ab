"""The architecture of the seeded small SigLIP of `parity_weights`, for all tests that load it."""

import parity_weights as seeded

from ilias_jax.towers.layers import Width
from ilias_jax.towers.siglip import siglip

SIZES = {
    "image": Width(**seeded.IMAGE),
    "text": Width(**seeded.TEXT),
    "patch_size": seeded.PATCH,
    "native_grid": seeded.NATIVE_GRID,
    "vocab_size": seeded.VOCAB,
    "text_length": seeded.TEXT_LENGTH,
}
CONFIG = siglip(**SIZES)
