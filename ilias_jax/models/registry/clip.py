"""Rows of CLIP (Radford et al., 2021) and of what was trained like it: image and text towers.

LAION's (Schuhmann et al., 2022), MetaCLIP (Xu et al., 2024), EVA02-CLIP (Sun et al., 2023) and PE
(Bolya et al., 2025); and those whose image towers are CNNs.
"""

import dataclasses

from ilias_jax.models.cnn.clip_resnet import ClipResNetConfig
from ilias_jax.models.cnn.convnext import ConvNextConfig
from ilias_jax.models.dual_encoder import DualEncoderConfig, ImageConfig, TextConfig
from ilias_jax.models.layers import Activation, BlockConfig, TransformerSize
from ilias_jax.models.positions import Rope
from ilias_jax.models.registry import entry
from ilias_jax.models.registry.entry import INCEPTION, OPENAI, B, L, PublishedFile, on_hub
from ilias_jax.models.vit import Head, VitConfig

CLIP_VOCABULARY = entry.Vocabulary(
    PublishedFile(
        "https://raw.githubusercontent.com/openai/CLIP/d05afc436d78f1c48dc0dbf8e5980a9d471f35f6/clip/bpe_simple_vocab_16e6.txt.gz",
        "924691ac288e54409236115652ad4aa250f48203de50a9e4722a6ecd48d6804a",
    ),
    size=49_408,
    pad_id=0,
    kind="clip",
)
_EPSILON = 1e-5
_MIT, _APACHE, _NON_COMMERCIAL = "MIT", "Apache-2.0", "CC-BY-NC-4.0"
_OPEN_CLIP = "open_clip_model.safetensors"
EVA_B, EVA_L = TransformerSize(768, 12, 2048, 12), TransformerSize(1024, 24, 2730, 16)
EVA_BLOCK = BlockConfig("silu", 1e-6, biases="no_key", gated_mlp=True)


def clip_image(
    size: TransformerSize,
    patch_size: int,
    native_grid: int,
    activation: Activation,
    dim: int | None,
) -> VitConfig:
    """CLIP's image tower; `dim` of the projection, None for the class token itself."""
    block, head = BlockConfig(activation, _EPSILON), None if dim is None else Head(dim)
    return VitConfig(
        size, patch_size, native_grid, block, patch_bias=False, pre_norm=True, head=head
    )


def _text(width: int, depth: int, dim: int, activation: Activation, length: int = 77) -> TextConfig:
    size = TransformerSize(width, depth, 4 * width, width // 64)
    block = BlockConfig(activation, _EPSILON)
    return TextConfig(size, CLIP_VOCABULARY.size, dim, length, block, causal=True, head="matrix")


def _eva(size: TransformerSize, patch_size: int, native_grid: int, dim: int) -> VitConfig:
    block = dataclasses.replace(EVA_BLOCK, attention_norm=True)
    rope = Rope("eva", reference=16)
    return VitConfig(size, patch_size, native_grid, block, rope=rope, head=Head(dim))


def _pe(size: TransformerSize, patch_size: int, native_grid: int) -> VitConfig:
    image = clip_image(size, patch_size, native_grid, "gelu_exact", 1024)
    return dataclasses.replace(image, rope=Rope("pe", native_grid), pool="map", map_heads=8)


def _row(
    name: str,
    image: ImageConfig,
    text: TextConfig,
    train_resolution: int,
    repository: str,
    *,
    reference: tuple[Activation | None, Activation | None] = (None, None),
    normalization: tuple[entry.Triple, entry.Triple] = OPENAI,
    text_file: PublishedFile | None = None,
    licence: str = _MIT,
    note: str = "",
) -> tuple[str, entry.Variant]:
    files: dict[entry.Weights, PublishedFile] = {"open_clip": on_hub(repository, _OPEN_CLIP)}
    if name != "RN50.openai":  # which timm has under another name, as a network of another kind
        files["timm"] = on_hub(f"timm/{name}", "model.safetensors")
    return name, entry.Variant(
        DualEncoderConfig(image, text),
        train_resolution,
        entry.test_resolution(train_resolution),
        files,
        CLIP_VOCABULARY,
        reference=reference,
        normalization=normalization,
        text_file=text_file,
        licence=licence,
        note=note,
    )


def _openai(
    name: str,
    size: TransformerSize,
    patch_size: int,
    train_resolution: int,
    licence: str,
    text: Activation,
) -> tuple[str, entry.Variant]:
    """A row of OpenAI's weights or MetaCLIP's, trained with QuickGELU; timm runs the exact GELU."""
    dim = 512 if size is B else 768
    return _row(
        name,
        clip_image(size, patch_size, train_resolution // patch_size, "quick_gelu", dim),
        _text(dim, 12, dim, "quick_gelu"),
        train_resolution,
        f"timm/{name}",
        reference=("gelu_exact", text),
        licence=licence,
        note=_ASSUMED if text == "gelu_exact" else "",
    )


_ASSUMED = (
    "open_clip ran QuickGELU in this text tower up to version 2.28 and the exact GELU since; "
    "which the published numbers had is not known, the newer is taken"
)
_EXACT: Activation = "gelu_exact"
_QUICK: Activation = "quick_gelu"
_EVA_TEXT = on_hub("timm/eva02_large_patch14_clip_224.merged2b_s4b_b131k", _OPEN_CLIP)

# fmt: off
CLIP_ROWS: dict[str, entry.Variant] = dict((
    _openai("vit_base_patch16_clip_224.openai", B, 16, 224, _APACHE, _EXACT),
    _openai("vit_large_patch14_clip_224.openai", L, 14, 224, _APACHE, _EXACT),
    _openai("vit_large_patch14_clip_336.openai", L, 14, 336, _APACHE, _EXACT),
    _openai("vit_base_patch16_clip_224.metaclip_2pt5b", B, 16, 224, _NON_COMMERCIAL, _QUICK),
    _openai("vit_large_patch14_clip_224.metaclip_2pt5b", L, 14, 224, _NON_COMMERCIAL, _QUICK),
    _row("vit_large_patch14_clip_224.laion2b", clip_image(L, 14, 16, _EXACT, 768),
         _text(768, 12, 768, _EXACT), 224, "laion/CLIP-ViT-L-14-laion2B-s32B-b82K",
         normalization=INCEPTION, licence=_APACHE),
    _row("eva02_base_patch16_clip_224.merged2b", _eva(EVA_B, 16, 14, 512),
         _text(512, 12, 512, _EXACT), 224, "timm/eva02_base_patch16_clip_224.merged2b_s8b_b131k"),
    _row("eva02_large_patch14_clip_336.merged2b", _eva(EVA_L, 14, 24, 768),
         _text(768, 12, 768, _EXACT), 336, "timm/eva02_large_patch14_clip_336.merged2b_s6b_b61k",
         text_file=_EVA_TEXT,
         note="the published numbers have the text tower of the model trained at 224"),
    _row("vit_pe_core_base_patch16_224.fb", _pe(B, 16, 14), _text(1024, 24, 1024, _EXACT, 32), 224,
         "timm/PE-Core-B-16", normalization=INCEPTION, licence=_APACHE),
    _row("vit_pe_core_large_patch14_336.fb", _pe(L, 14, 24), _text(1024, 24, 1024, _EXACT, 32), 336,
         "timm/PE-Core-L-14-336", normalization=INCEPTION, licence=_APACHE),
    _row("RN50.openai", ClipResNetConfig(), _text(512, 12, 1024, _QUICK), 224,
         "timm/resnet50_clip.openai", reference=(None, _EXACT), note=_ASSUMED),
    _row("convnext_base.clip_laion2b_augreg", ConvNextConfig(dim=640),
         _text(640, 12, 640, _EXACT), 256, "laion/CLIP-convnext_base_w-laion2B-s13B-b82K-augreg"),
    _row("convnext_large_mlp.clip_laion2b_ft_soup_320",
         ConvNextConfig(widths=(192, 384, 768, 1536), dim=768, hidden=True),
         _text(768, 16, 768, _EXACT), 320,
         "laion/CLIP-convnext_large_d_320.laion2B-s29B-b131K-ft-soup"),
))
# fmt: on
