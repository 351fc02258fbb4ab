"""The models whose outputs are compared with the references', and the inputs of the comparison.

Numpy only, as `tests/reference/make_parity_values.py` reads it where there is no JAX. Each case has a file
of expected values, `tests/data/parity_NAME.npz`; `parity_summary` says what is in it.
"""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import parity_weights as seeded
from parity_weights import Sizes

DATA = pathlib.Path(__file__).parent / "data"
BOTH = ("gelu_exact", "gelu_tanh")
# TransformerSize and height: square, 4:3, 3:4, 16:9, thin both ways; the last has one row of patches.
FULL_PICTURES = ((500, 500), (640, 480), (480, 640), (640, 360), (90, 720), (400, 1))


@dataclasses.dataclass(frozen=True)
class Case:
    """A model and what it is run on.

    Attributes:
        sizes: of both towers.
        timm_name: of the image tower.
        timm_changes: arguments of timm's entry point that make it as small as `sizes`.
        open_clip_name: configuration with the text tower; "" for a case without one.
        open_clip_changes: of its text tower.
        picture_sizes: (width, height) of each picture.
        resolutions: test sizes.
        activations: forms of the GELU; the first is the one timm ships.
    """

    sizes: Sizes
    timm_name: str
    open_clip_name: str
    timm_changes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    open_clip_changes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    picture_sizes: tuple[tuple[int, int], ...] = FULL_PICTURES
    resolutions: tuple[int, ...] = (384, 512)
    activations: tuple[str, ...] = BOTH

    def pictures(self) -> list[np.ndarray]:
        """[H, W, 3] uint8 each."""
        return seeded.pictures(self.picture_sizes)


def _size(width: int, depth: int, mlp_dim: int, num_heads: int) -> dict[str, int]:
    return {"width": width, "depth": depth, "mlp_dim": mlp_dim, "num_heads": num_heads}


_B = _size(768, 12, 3072, 12)
_L = _size(1024, 24, 4096, 16)
_SO400M = _size(1152, 2, 4304, 16)  # of 27 blocks
_GIANT = _size(1536, 1, 6144, 16)  # of 40 blocks
_SHALLOW_B = _size(768, 2, 3072, 12)  # of 12 blocks
_WHOLE_SO400M = {**_SO400M, "depth": 27}
_WHOLE_GIANT = {**_GIANT, "depth": 40}
_FEW_WORDS = 1000  # the embedding of 256,000 says no more than one of these

CASES: dict[str, Case] = {
    "small": Case(
        seeded.SMALL,
        "vit_base_patch16_siglip_384",
        "ViT-B-16-SigLIP-384",
        {
            "img_size": seeded.PATCH * seeded.NATIVE_GRID,
            "embed_dim": seeded.IMAGE["width"],
            "depth": seeded.IMAGE["depth"],
            "num_heads": seeded.IMAGE["num_heads"],
            "mlp_ratio": seeded.IMAGE["mlp_dim"] / seeded.IMAGE["width"],
        },
        {
            "context_length": seeded.TEXT_LENGTH,
            "vocab_size": seeded.VOCAB,
            "width": seeded.TEXT["width"],
            "heads": seeded.TEXT["num_heads"],
            "layers": seeded.TEXT["depth"],
        },
        seeded.PICTURE_SIZES,
        seeded.RESOLUTIONS,
    ),
    "base": Case(
        Sizes(_B, _B, 16, 24, 32_000, 64), "vit_base_patch16_siglip_384", "ViT-B-16-SigLIP-384"
    ),
    "large": Case(
        Sizes(_L, _L, 16, 24, 32_000, 64), "vit_large_patch16_siglip_384", "ViT-L-16-SigLIP-384"
    ),
    "so400m": Case(
        Sizes(_SO400M, _SO400M, 14, 27, _FEW_WORDS, 64),
        "vit_so400m_patch14_siglip_384",
        "ViT-SO400M-14-SigLIP-384",
        {"depth": _SO400M["depth"]},
        {"layers": _SO400M["depth"], "vocab_size": _FEW_WORDS},
        resolutions=(224, 384),
        activations=("gelu_exact",),
    ),
    "giant": Case(
        Sizes(_GIANT, _SO400M, 16, 24, _FEW_WORDS, 64),
        "vit_giantopt_patch16_siglip_384",
        "ViT-gopt-16-SigLIP2-384",
        {"depth": _GIANT["depth"]},
        {"layers": _SO400M["depth"], "vocab_size": _FEW_WORDS},
        resolutions=(384,),
        activations=("gelu_tanh",),
    ),
    "naflex": Case(
        Sizes(_SHALLOW_B, _SHALLOW_B, 16, 16, _FEW_WORDS, 64),
        "naflexvit_base_patch16_siglip",
        "",
        {"depth": _SHALLOW_B["depth"]},
        resolutions=(224, 256, 384),
        activations=("gelu_tanh",),
    ),
    "whole_so400m14": Case(
        Sizes(_WHOLE_SO400M, _WHOLE_SO400M, 14, 27, _FEW_WORDS, 64),
        "vit_so400m_patch14_siglip_384",
        "ViT-SO400M-14-SigLIP-384",
        open_clip_changes={"vocab_size": _FEW_WORDS},
        resolutions=(512,),
        activations=("gelu_exact",),
    ),
    "whole_so400m16": Case(
        Sizes(_WHOLE_SO400M, _WHOLE_SO400M, 16, 16, _FEW_WORDS, 64, text_head=False),
        "vit_so400m_patch16_siglip_256",
        "ViT-SO400M-16-SigLIP-i18n-256",
        open_clip_changes={"vocab_size": _FEW_WORDS},
        resolutions=(384,),
        activations=("gelu_tanh",),
    ),
    "whole_giant": Case(
        Sizes(_WHOLE_GIANT, _WHOLE_SO400M, 16, 24, _FEW_WORDS, 64),
        "vit_giantopt_patch16_siglip_384",
        "ViT-gopt-16-SigLIP2-384",
        open_clip_changes={"vocab_size": _FEW_WORDS},
        resolutions=(512,),
        activations=("gelu_tanh",),
    ),
    "whole_b32": Case(
        Sizes(_B, _SHALLOW_B, 32, 8, _FEW_WORDS, 64),
        "vit_base_patch32_siglip_256",
        "",
        resolutions=(384,),
        activations=("gelu_tanh",),
    ),
    "whole_naflex_base": Case(
        Sizes(_B, _SHALLOW_B, 16, 16, _FEW_WORDS, 64),
        "naflexvit_base_patch16_siglip",
        "",
        resolutions=(512,),
        activations=("gelu_tanh",),
    ),
    "whole_naflex_so400m": Case(
        Sizes(_WHOLE_SO400M, _SHALLOW_B, 16, 16, _FEW_WORDS, 64),
        "naflexvit_so400m_patch16_siglip",
        "",
        resolutions=(512,),
        activations=("gelu_tanh",),
    ),
}
