"""Rows of image towers without a text tower.

Supervised (augreg: Steiner et al., 2022; DeiT3: Touvron et al., 2022), self-supervised (MoCo v3:
Chen et al., 2021; DINO: Caron et al., 2021; DINOv2: Oquab et al., 2024; DINOv3: Siméoni et al.,
2025; EVA02: Fang et al., 2023), distilled (UNIC: Sariyildiz et al., 2024), and those trained for
retrieval (UNICOM: An et al., 2023; RS@k: Patel et al., 2022; HIER: Kim et al., 2023; USCRR and
UDON: Ypsilantis et al., 2023 and 2024).
"""

import dataclasses
from typing import Literal

from ilias_jax.models.dual_encoder import DualEncoderConfig
from ilias_jax.models.layers import Activation, BlockConfig, TransformerSize
from ilias_jax.models.positions import Rope
from ilias_jax.models.registry import entry
from ilias_jax.models.registry.clip import EVA_B, EVA_BLOCK, EVA_L, clip_image
from ilias_jax.models.registry.entry import IMAGENET, INCEPTION, OPENAI, B, L, PublishedFile
from ilias_jax.models.vit import Head, VitConfig

_S = TransformerSize(384, 12, 1536, 6)
_META = "https://dl.fbaipublicfiles.com"
_UNICOM = "https://github.com/deepglint/unicom/releases/download"
_APACHE, _NON_COMMERCIAL, _MIT = "Apache-2.0", "CC-BY-NC-4.0", "MIT"
_ASK = "its authors publish no weights: give their file as model.checkpoint"
_UNKNOWN = "not stated"
_GATED = "Meta sends an address to those who accept its licence: give the file as model.checkpoint"
_ASSUMED = (
    "which activation its published numbers had is not known; timm's exact GELU is taken, after "
    "the name that it has there"
)


def _vit(size: TransformerSize, native_grid: int, patch_size: int = 16) -> VitConfig:
    """The plain one: class token, exact GELU, the class token's vector is the image's."""
    return VitConfig(size, patch_size, native_grid)


def _dino(size: TransformerSize, native_grid: int, patch_size: int = 16) -> VitConfig:
    return VitConfig(size, patch_size, native_grid, position="offset")


def _dinov2(size: TransformerSize, *, registers: bool) -> VitConfig:
    """DINOv2's; the later ones have registers and resample as timm does."""
    image = VitConfig(size, 14, 37, BlockConfig(layer_scale=True))
    if registers:
        return dataclasses.replace(image, num_registers=4)
    return dataclasses.replace(image, position="offset")


def _dinov3(size: TransformerSize) -> VitConfig:
    """DINOv3's, of which rotary embeddings are the only positions."""
    block = BlockConfig("gelu_exact", 1e-5, layer_scale=True)
    rope = Rope("dinov3")
    return VitConfig(size, 16, 14, block, num_registers=4, position=None, rope=rope)


def _eva(size: TransformerSize) -> VitConfig:
    rope = Rope("eva", reference=16)
    return VitConfig(size, 14, 16, EVA_BLOCK, rope=rope, pool="mean")


def _unicom(size: TransformerSize, patch_size: int, native_grid: int) -> VitConfig:
    image = VitConfig(size, patch_size, native_grid, BlockConfig("relu6", 1e-5, biases="none"))
    return dataclasses.replace(
        image, class_token=False, position="clamped", pool="flatten", head=Head(768)
    )


def _row(
    name: str,
    image: VitConfig,
    train_resolution: int,
    file: tuple[Literal["timm", "torch", "flax"], PublishedFile] | None,
    normalization: tuple[entry.Triple, entry.Triple] = IMAGENET,
    *,
    licence: str = _APACHE,
    test: int = 0,
    reference: Activation | None = None,
    open_grid: bool = False,
    note: str = "",
) -> tuple[str, entry.Variant]:
    """A name and its row; `test` is the test resolution if it is not what the rule says."""
    files: dict[entry.Weights, PublishedFile] = {} if file is None else {file[0]: file[1]}
    return name, entry.Variant(
        DualEncoderConfig(image),
        train_resolution,
        test or entry.test_resolution(train_resolution),
        files,
        reference=(reference, None),
        normalization=normalization,
        licence=licence,
        open_grid=open_grid,
        note=_ASK if file is None and not note else note,
    )


def _timm(
    name: str,
    image: VitConfig,
    train_resolution: int,
    normalization: tuple[entry.Triple, entry.Triple],
    licence: str = _APACHE,
) -> tuple[str, entry.Variant]:
    file = entry.on_hub(f"timm/{name}", "model.safetensors")
    return _row(name, image, train_resolution, ("timm", file), normalization, licence=licence)


def _torch(url: str, sha256: str | None = None) -> tuple[Literal["torch"], PublishedFile]:
    return "torch", PublishedFile(url, sha256)


_DEIT3 = BlockConfig(layer_scale=True)
_RS_AT_K = dataclasses.replace(_vit(B, 14), head=Head(512, "affine"))
_HIER = dataclasses.replace(_dino(_S, 14), head=Head(128, "plain"))
_SCENIC = dataclasses.replace(_vit(B, 14), block=BlockConfig("gelu_tanh"))
_SCENIC_CLIP = clip_image(B, 16, 14, "quick_gelu", None)
_EXACT: Activation = "gelu_exact"
_USCRR = "https://cmp.felk.cvut.cz/univ_emb/finetuned_checkpoints/clip_uscrr_iccv_jax_checkpoint"

# fmt: off
VIT_ROWS: dict[str, entry.Variant] = dict((
    _timm("vit_base_patch16_224.augreg_in1k", _vit(B, 14), 224, INCEPTION),
    _timm("vit_base_patch16_224.augreg_in21k", _vit(B, 14), 224, INCEPTION),
    _timm("vit_large_patch16_224.augreg_in21k", _vit(L, 14), 224, INCEPTION),
    _timm("vit_large_patch16_224.augreg_in21k_ft_in1k", _vit(L, 14), 224, INCEPTION),
    _timm("vit_large_patch16_384.augreg_in21k_ft_in1k", _vit(L, 24), 384, INCEPTION),
    _timm("deit3_base_patch16_224.fb_in1k",
          VitConfig(B, 16, 14, _DEIT3, class_position=False), 224, IMAGENET),
    _timm("deit3_large_patch16_224.fb_in1k",
          VitConfig(L, 16, 14, _DEIT3, class_position=False), 224, IMAGENET),
    _timm("eva02_base_patch14_224.mim_in22k", _eva(EVA_B), 224, OPENAI, _MIT),
    _timm("eva02_large_patch14_224.mim_in22k", _eva(EVA_L), 224, OPENAI, _MIT),
    _timm("eva02_large_patch14_224.mim_m38m", _eva(EVA_L), 224, OPENAI, _MIT),
    _row("dino_vitb16", _dino(B, 14), 224,
         _torch(f"{_META}/dino/dino_vitbase16_pretrain/dino_vitbase16_pretrain.pth")),
    _row("moco_v3_vitb", _vit(B, 14), 224,
         _torch(f"{_META}/moco-v3/vit-b-300ep/vit-b-300ep.pth.tar"), licence=_NON_COMMERCIAL),
    _row("dinov2_vitb14", _dinov2(B, registers=False), 518,
         _torch(f"{_META}/dinov2/dinov2_vitb14/dinov2_vitb14_pretrain.pth")),
    _row("dinov2_vitl14", _dinov2(L, registers=False), 518,
         _torch(f"{_META}/dinov2/dinov2_vitl14/dinov2_vitl14_pretrain.pth")),
    _row("dinov2_vitb14_reg", _dinov2(B, registers=True), 518,
         _torch(f"{_META}/dinov2/dinov2_vitb14/dinov2_vitb14_reg4_pretrain.pth")),
    _row("dinov2_vitl14_reg", _dinov2(L, registers=True), 518,
         _torch(f"{_META}/dinov2/dinov2_vitl14/dinov2_vitl14_reg4_pretrain.pth")),
    _row("dinov3_vitb16", _dinov3(B), 224, None,
         licence="DINOv3", test=768, note=_GATED),
    _row("dinov3_vitl16", _dinov3(L), 224, None,
         licence="DINOv3", test=768, note=_GATED),
    _row("unic_l", _dino(L, 16, 14), 224,
         _torch("https://download.europe.naverlabs.com/ComputerVision/unic/unic_l.pth"),
         licence="CC-BY-NC-SA-4.0", test=512, open_grid=True),
    _row("unicom_vit_base_patch16_224", _unicom(B, 16, 14), 224, _torch(
        f"{_UNICOM}/b16/FP16-ViT-B-16.pt",
        "c04f324f7c3b4435667236ec6c0eca1cd62f9d64fbfc2d06f8e8e60e6497edef"), OPENAI, licence=_MIT),
    _row("unicom_vit_large_patch14_224", _unicom(L, 14, 16), 224, _torch(
        f"{_UNICOM}/l14/FP16-ViT-L-14.pt",
        "ff3ab62ff782876460099e6e0ee17b73a7c01109de2fffd595f16f4129404bbd"), OPENAI, licence=_MIT),
    _row("unicom_vit_large_patch14_336", _unicom(L, 14, 24), 336, _torch(
        f"{_UNICOM}/l14_336px/FP16-ViT-L-14-336px.pt",
        "3916ab5aed3b522fc90345be8b4457fe5dad60801ad2af5a6871c0c096e8d7ea"), OPENAI, licence=_MIT),
    _row("unicom_vit_base_patch16_gldv2", _unicom(B, 16, 32), 512, None, OPENAI, licence=_MIT),
    _row("unicom_vit_base_patch16_sop", _unicom(B, 16, 14), 224, None, OPENAI, licence=_MIT),
    _row("recall_512-vit_base_patch16_224_in21k", _RS_AT_K, 224, None, licence=_UNKNOWN),
    _row("hier_dino_vits16_sop", _HIER, 224, None, licence=_UNKNOWN),
    _row("uscrr_64-vit_base_patch16_clip_224.openai", _SCENIC_CLIP, 224,
         ("flax", PublishedFile(_USCRR)), OPENAI, licence=_UNKNOWN, reference=_EXACT,
         note=f"{_ASSUMED}; tested at 384 by the official script, at 724 by the published table"),
    _row("udon_64-vitb_in21k_ft_in1k", _SCENIC, 224, None, INCEPTION, licence=_UNKNOWN,
         reference=_EXACT, note=f"{_ASK}; {_ASSUMED}"),
    _row("udon_64-vitb_clip_openai", _SCENIC_CLIP, 224, None, OPENAI, licence=_UNKNOWN,
         reference=_EXACT, note=f"{_ASK}; {_ASSUMED}"),
))
# fmt: on
