"""Rows of SigLIP (Zhai et al., 2023) and SigLIP 2 (Tschannen et al., 2025), and the bundled model.

A ViT image tower without class token, pooled by a MAP head, and a bidirectional text tower.
"""

from ilias_jax.models.dual_encoder import DualEncoderConfig, TextConfig
from ilias_jax.models.layers import Activation, BlockConfig, TransformerSize
from ilias_jax.models.positions import PositionRule
from ilias_jax.models.registry import entry
from ilias_jax.models.registry.entry import B, L, PublishedFile, Vocabulary, on_hub
from ilias_jax.models.vit import VitConfig

SO400M = TransformerSize(1152, 27, 4304, 16)
_GIANT_OPT = TransformerSize(1536, 40, 6144, 16)
_OPEN_CLIP_SIZES = {B: "B", L: "L", SO400M: "SO400M", _GIANT_OPT: "gopt"}
_BIG_VISION = "https://storage.googleapis.com/big_vision"
# timm runs the exact GELU in image towers that it defines without `gelu_tanh`, SigLIP 2's too.
_EXACT: Activation = "gelu_exact"
_TANH: Activation = "gelu_tanh"
_T5 = "https://storage.googleapis.com/t5-data/vocabs"

C4 = Vocabulary(PublishedFile(f"{_T5}/cc_en.32000/sentencepiece.model"), 32_000, pad_id=1)
MC4 = Vocabulary(
    PublishedFile(f"{_T5}/mc4.250000.100extra/sentencepiece.model"),
    250_000,
    pad_id=1,
    extra_pieces=100,
)
GEMMA = Vocabulary(PublishedFile(f"{_BIG_VISION}/gemma_tokenizer.model"), 256_000, pad_id=0)


def siglip(
    image: TransformerSize,
    text: TransformerSize,
    patch_size: int,
    native_grid: int,
    vocab_size: int,
    text_length: int = 64,
    activation: Activation = "gelu_tanh",
    text_head: bool = True,
    naflex: bool = False,
) -> DualEncoderConfig:
    """The architecture of a SigLIP model.

    Both embeddings have `image.width` channels; without `text_head` the text tower must be as wide.
    A model trained on images of any shape (NaFlex, SigLIP 2) resamples its position grid
    bilinearly.
    """
    block = BlockConfig(activation)
    rule: PositionRule = "bilinear" if naflex else "bicubic"
    return DualEncoderConfig(
        VitConfig(
            *(image, patch_size, native_grid, block), class_token=False, position=rule, pool="map"
        ),
        TextConfig(
            *(text, vocab_size, image.width, text_length, block),
            head="dense" if text_head else "none",
        ),
        sigmoid_loss=True,
    )


def _siglip(
    name: str,
    size: TransformerSize,
    patch_size: int,
    train_resolution: int,
    npz: str,
    *,
    vocabulary: Vocabulary = C4,
    text_length: int = 64,
    text_head: bool = True,
    image_reference: Activation = _EXACT,
    text_reference: Activation = _EXACT,
) -> tuple[str, entry.Variant]:
    """A row of SigLIP; `npz` is big_vision's file. open_clip runs the exact GELU."""
    naflex, version = name.startswith("naflex"), "2" if vocabulary is GEMMA else ""
    architecture = siglip(
        image=size,
        text=SO400M if size is _GIANT_OPT else size,
        patch_size=patch_size,
        native_grid=16 if naflex else train_resolution // patch_size,
        vocab_size=vocabulary.size,
        text_length=text_length,
        text_head=text_head,
        naflex=naflex,
    )
    files: dict[entry.Weights, PublishedFile] = {
        "big_vision": PublishedFile(f"{_BIG_VISION}/siglip{version}/{npz}.npz")
    }
    if not naflex:  # which open_clip does not have
        language = "-i18n" if vocabulary is MC4 else ""
        suffix = "" if train_resolution == 224 else f"-{train_resolution}"
        kind = f"{_OPEN_CLIP_SIZES[size]}-{patch_size}-SigLIP{version}"
        repository = f"ViT-{kind}{language}{suffix}"
        files["open_clip"] = on_hub(f"timm/{repository}", "open_clip_model.safetensors")
    files["timm"] = on_hub(f"timm/{name}", "model.safetensors")
    side, reference = entry.test_resolution(train_resolution), (image_reference, text_reference)
    return name, entry.Variant(architecture, train_resolution, side, files, vocabulary, reference)


def _siglip2(
    name: str,
    size: TransformerSize,
    patch_size: int,
    train_resolution: int,
    npz: str,
    image_reference: Activation = _TANH,
) -> tuple[str, entry.Variant]:
    return _siglip(
        *(name, size, patch_size, train_resolution, f"siglip2_{npz}"),
        vocabulary=GEMMA,
        image_reference=image_reference,
        text_reference=_TANH,
    )


TINY_PATCH, TINY_GRID, TINY_VOCABULARY, TINY_LENGTH = 16, 8, 256, 32
TINY = siglip(
    image=TransformerSize(192, 4, 768, 3),
    text=TransformerSize(128, 2, 512, 2),
    patch_size=TINY_PATCH,
    native_grid=TINY_GRID,
    vocab_size=TINY_VOCABULARY,
    text_length=TINY_LENGTH,
)
TINY_RESOLUTION = TINY_PATCH * TINY_GRID
_TINY_ROW = entry.Variant(
    TINY,
    TINY_RESOLUTION,
    TINY_RESOLUTION,
    {"big_vision": PublishedFile("tiny/checkpoint.npz")},
    Vocabulary(PublishedFile("tiny/tokenizer.model"), TINY_VOCABULARY, pad_id=1),
    reference=("gelu_tanh", "gelu_tanh"),
    bundled=True,
)

# fmt: off
SIGLIP_ROWS: dict[str, entry.Variant] = dict((
    ("tiny", _TINY_ROW),
    _siglip("vit_base_patch16_siglip_224.webli", B, 16, 224, "webli_en_b16_224_63724782"),
    _siglip("vit_base_patch16_siglip_256.webli", B, 16, 256, "webli_en_b16_256_60500360"),
    _siglip("vit_base_patch16_siglip_384.webli", B, 16, 384, "webli_en_b16_384_68578854"),
    _siglip("vit_base_patch16_siglip_512.webli", B, 16, 512, "webli_en_b16_512_68580893"),
    _siglip("vit_large_patch16_siglip_256.webli", L, 16, 256, "webli_en_l16_256_60552751"),
    _siglip("vit_large_patch16_siglip_384.webli", L, 16, 384, "webli_en_l16_384_63634585"),
    _siglip("vit_so400m_patch14_siglip_224.webli", SO400M, 14, 224, "webli_en_so400m_224_57633886",
            text_length=16),
    _siglip("vit_so400m_patch14_siglip_384.webli", SO400M, 14, 384, "webli_en_so400m_384_58765454"),
    _siglip("vit_base_patch16_siglip_256.webli_i18n", B, 16, 256, "webli_i18n_b16_256_66117334",
            vocabulary=MC4),
    _siglip("vit_so400m_patch16_siglip_256.webli_i18n", SO400M, 16, 256,
            "webli_i18n_so400m_16_256_78061115", vocabulary=MC4, text_head=False,
            image_reference=_TANH),
    _siglip2("vit_base_patch32_siglip_256.v2_webli", B, 32, 256, "b32_256"),
    _siglip2("vit_base_patch16_siglip_224.v2_webli", B, 16, 224, "b16_224", _EXACT),
    _siglip2("vit_base_patch16_siglip_256.v2_webli", B, 16, 256, "b16_256", _EXACT),
    _siglip2("vit_base_patch16_siglip_384.v2_webli", B, 16, 384, "b16_384", _EXACT),
    _siglip2("vit_base_patch16_siglip_512.v2_webli", B, 16, 512, "b16_512", _EXACT),
    _siglip2("vit_large_patch16_siglip_256.v2_webli", L, 16, 256, "l16_256", _EXACT),
    _siglip2("vit_large_patch16_siglip_384.v2_webli", L, 16, 384, "l16_384", _EXACT),
    _siglip2("vit_large_patch16_siglip_512.v2_webli", L, 16, 512, "l16_512"),
    _siglip2("vit_so400m_patch14_siglip_224.v2_webli", SO400M, 14, 224, "so400m14_224", _EXACT),
    _siglip2("vit_so400m_patch14_siglip_378.v2_webli", SO400M, 14, 378, "so400m14_384", _EXACT),
    _siglip2("vit_so400m_patch16_siglip_256.v2_webli", SO400M, 16, 256, "so400m16_256"),
    _siglip2("vit_so400m_patch16_siglip_384.v2_webli", SO400M, 16, 384, "so400m16_384"),
    _siglip2("vit_so400m_patch16_siglip_512.v2_webli", SO400M, 16, 512, "so400m16_512"),
    _siglip2("vit_giantopt_patch16_siglip_256.v2_webli", _GIANT_OPT, 16, 256, "g-opt16_256"),
    _siglip2("vit_giantopt_patch16_siglip_384.v2_webli", _GIANT_OPT, 16, 384, "g-opt16_384"),
    # NaFlex models were trained at many sizes; 384 is what timm's configuration states.
    _siglip2("naflexvit_base_patch16_siglip.v2_webli", B, 16, 384, "b16_naflex"),
    _siglip2("naflexvit_so400m_patch16_siglip.v2_webli", SO400M, 16, 384, "so400m16_naflex"),
))
# fmt: on
