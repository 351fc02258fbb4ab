"""The table of named models: architecture, preprocessing and where the official weights are.

Adding a model of the family takes one row. Names are those of the published table.
"""

import dataclasses

from ilias_jax.towers.layers import Width
from ilias_jax.towers.siglip import SiglipConfig

_B = Width(768, 12, 3072, 12)
_L = Width(1024, 24, 4096, 16)
_BIG_VISION = "https://storage.googleapis.com/big_vision/siglip/"
_C4_TOKENIZER = "https://storage.googleapis.com/t5-data/vocabs/cc_en.32000/sentencepiece.model"


@dataclasses.dataclass(frozen=True)
class Variant:
    """One row of the table.

    Attributes:
        architecture: sizes of both towers.
        train_resolution: pixels of a side in training.
        test_resolution: pixels of the longest side in the benchmark.
        checkpoint: official URL of the big_vision npz, or a path below the project's `data/`.
        tokenizer: official URL of the SentencePiece model, or a path likewise.
        pad_id: token that fills texts up.
        licence: of the weights.
        bundled: whether checkpoint and tokenizer ship with the code.
    """

    architecture: SiglipConfig
    train_resolution: int
    test_resolution: int
    checkpoint: str
    tokenizer: str
    pad_id: int = 1
    licence: str = "Apache-2.0"
    bundled: bool = False


def _siglip(size: Width, train_resolution: int, test_resolution: int, file: str) -> Variant:
    """A row of SigLIP, English, patch 16."""
    architecture = SiglipConfig(
        image=size, text=size, patch_size=16, native_grid=train_resolution // 16, vocab_size=32_000
    )
    url = _BIG_VISION + file
    return Variant(architecture, train_resolution, test_resolution, url, _C4_TOKENIZER)


TINY = SiglipConfig(
    image=Width(192, 4, 768, 3),
    text=Width(128, 2, 512, 2),
    patch_size=16,
    native_grid=8,
    vocab_size=256,
    text_length=32,
)
TINY_RESOLUTION = TINY.patch_size * TINY.native_grid

VARIANTS: dict[str, Variant] = {
    "tiny": Variant(
        TINY,
        TINY_RESOLUTION,
        TINY_RESOLUTION,
        "tiny/checkpoint.npz",
        "tiny/tokenizer.model",
        bundled=True,
    ),
    "vit_base_patch16_siglip_224.webli": _siglip(_B, 224, 384, "webli_en_b16_224_63724782.npz"),
    "vit_base_patch16_siglip_256.webli": _siglip(_B, 256, 384, "webli_en_b16_256_60500360.npz"),
    "vit_base_patch16_siglip_384.webli": _siglip(_B, 384, 512, "webli_en_b16_384_68578854.npz"),
    "vit_base_patch16_siglip_512.webli": _siglip(_B, 512, 724, "webli_en_b16_512_68580893.npz"),
    "vit_large_patch16_siglip_256.webli": _siglip(_L, 256, 384, "webli_en_l16_256_60552751.npz"),
    "vit_large_patch16_siglip_384.webli": _siglip(_L, 384, 512, "webli_en_l16_384_63634585.npz"),
}
