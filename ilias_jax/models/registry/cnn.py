"""Rows of image towers that are CNNs and have no text tower.

AlexNet, VGG, DenseNet, Inception, NASNet and EfficientNet; ResNet (He et al., 2016) as torchvision,
SwAV (Caron et al., 2020), DINO (Caron et al., 2021) and MoCo v3 (Chen et al., 2021) trained it;
ConvNeXt (Liu et al., 2022), also of DINOv3 (Siméoni et al., 2025) and EUPE.
"""

import dataclasses
from typing import Literal

from ilias_jax.models.cnn.convnext import ConvNextConfig
from ilias_jax.models.cnn.densenet import DenseNetConfig
from ilias_jax.models.cnn.efficientnet import B4
from ilias_jax.models.cnn.inception import InceptionConfig
from ilias_jax.models.cnn.maps import CnnConfig
from ilias_jax.models.cnn.nasnet import NasNetConfig
from ilias_jax.models.cnn.plain import ALEXNET, VGG16, PlainConfig
from ilias_jax.models.cnn.resnet import ResNetConfig
from ilias_jax.models.dual_encoder import DualEncoderConfig
from ilias_jax.models.registry import entry
from ilias_jax.models.registry.entry import IMAGENET, INCEPTION, PublishedFile

_META = "https://dl.fbaipublicfiles.com"
_APACHE, _NON_COMMERCIAL, _BSD = "Apache-2.0", "CC-BY-NC-4.0", "BSD-3-Clause"
_UNKNOWN = "not stated"
_NEXT_S = ConvNextConfig(widths=(96, 192, 384, 768))
_NEXT_T = dataclasses.replace(_NEXT_S, depths=(3, 3, 9, 3))
_NEXT_B, _NEXT_L = ConvNextConfig(), ConvNextConfig(widths=(192, 384, 768, 1536))
_DINOV3, _EUPE = "DINOv3", "FAIR-NC"
_NEWER = "younger than the published table: its test size follows the benchmark's rule"
_101 = (3, 4, 23, 3)
_RESNET_50, _RESNET_101 = ResNetConfig(), ResNetConfig(_101)
_CVNET = ResNetConfig(pool="gem", dim=2048, floor=True, bgr=True)
_SUPERGLOBAL = dataclasses.replace(_CVNET, pool="regional")
_ASK = "its authors publish no weights: give their file as model.checkpoint"
_FLOOR = (
    "the official toolkit runs ReLUP, whose activations are at least 0.014, in CVNet too; whether "
    "the published numbers have it is not known"
)
_FOLDER = "https://drive.google.com/drive/folders/1gMbZ8JlTyPlH2-6HW5NHRe58LmKfJybx"
_DRIVE = f"its authors share the file at {_FOLDER}: give it as model.checkpoint; {_FLOOR}"
_SAME_FILE = f"the file is CVNet's, at {_FOLDER}: give it as model.checkpoint"
_SIZE = (
    "the published table has it as trained on ImageNet and tested at 384 pixels, the official "
    "script runs CVNet's weights at 724"
)


def _row(
    name: str,
    image: CnnConfig,
    train_resolution: int,
    file: tuple[Literal["timm", "torch"], PublishedFile] | None,
    normalization: tuple[entry.Triple, entry.Triple] = IMAGENET,
    *,
    licence: str = _APACHE,
    test: int = 0,
    note: str = "",
) -> tuple[str, entry.Variant]:
    """A name and its row; `test` is the test resolution if it is not what the rule says."""
    files: dict[entry.Weights, PublishedFile] = {} if file is None else {file[0]: file[1]}
    return name, entry.Variant(
        DualEncoderConfig(image),
        train_resolution,
        test or entry.test_resolution(train_resolution),
        files,
        normalization=normalization,
        licence=licence,
        note=note,
    )


def _timm(
    name: str,
    image: CnnConfig,
    train_resolution: int,
    normalization: tuple[entry.Triple, entry.Triple] = IMAGENET,
    licence: str = _APACHE,
    note: str = "",
) -> tuple[str, entry.Variant]:
    file = entry.on_hub(f"timm/{name}", "model.safetensors")
    return _row(
        name, image, train_resolution, ("timm", file), normalization, licence=licence, note=note
    )


def _torch(url: str) -> tuple[Literal["torch"], PublishedFile]:
    return "torch", PublishedFile(url)


# fmt: off
CNN_ROWS: dict[str, entry.Variant] = dict((
    _row("alexnet.tv_in1k", PlainConfig(ALEXNET, (2, 5, 12), 3, min_side=63), 224,
         _torch("https://download.pytorch.org/models/alexnet-owt-7be5be79.pth"), licence=_BSD),
    _timm("vgg16.tv_in1k", PlainConfig(VGG16, (4, 9, 16, 23, 30), 2, min_side=32), 224,
          licence=_BSD),
    _timm("densenet169.tv_in1k", DenseNetConfig(), 224),
    _timm("inception_v4.tf_in1k", InceptionConfig(), 299, INCEPTION),
    _timm("nasnetalarge.tf_in1k", NasNetConfig(), 331, INCEPTION),
    _timm("tf_efficientnet_b4.ns_jft_in1k", B4, 380),
    _timm("resnet50.tv_in1k", _RESNET_50, 224, licence=_BSD),
    _timm("resnet101.tv_in1k", _RESNET_101, 224, licence=_BSD),
    _timm("convnext_base.fb_in1k", _NEXT_B, 224),
    _timm("convnext_base.fb_in22k", _NEXT_B, 224),
    _timm("convnext_large.fb_in1k", _NEXT_L, 224),
    _timm("convnext_large.fb_in22k", _NEXT_L, 224),
    _timm("convnext_tiny.dinov3_lvd1689m", _NEXT_T, 224, licence=_DINOV3, note=_NEWER),
    _timm("convnext_small.dinov3_lvd1689m", _NEXT_S, 224, licence=_DINOV3, note=_NEWER),
    _timm("convnext_base.dinov3_lvd1689m", _NEXT_B, 224, licence=_DINOV3, note=_NEWER),
    _timm("convnext_large.dinov3_lvd1689m", _NEXT_L, 224, licence=_DINOV3, note=_NEWER),
    _timm("convnext_tiny.eupe_lvd1689m", _NEXT_T, 256, licence=_EUPE, note=_NEWER),
    _timm("convnext_small.eupe_lvd1689m", _NEXT_S, 256, licence=_EUPE, note=_NEWER),
    _timm("convnext_base.eupe_lvd1689m", _NEXT_B, 256, licence=_EUPE, note=_NEWER),
    _row("swav_resnet50", _RESNET_50, 224,
         _torch(f"{_META}/deepcluster/swav_800ep_pretrain.pth.tar"), licence=_NON_COMMERCIAL),
    _row("dino_resnet50", _RESNET_50, 224,
         _torch(f"{_META}/dino/dino_resnet50_pretrain/dino_resnet50_pretrain.pth")),
    _row("moco_v3_resnet50", _RESNET_50, 224,
         _torch(f"{_META}/moco-v3/r-50-1000ep/r-50-1000ep.pth.tar"), licence=_NON_COMMERCIAL),
    _row("recall_512-resnet50", ResNetConfig(pool="gem", norm=True, dim=512), 224, None,
         licence=_UNKNOWN, note=_ASK),
    _row("cvnet_resnet50", _CVNET, 512, None, licence=_UNKNOWN, note=_DRIVE),
    _row("cvnet_resnet101", dataclasses.replace(_CVNET, depths=_101), 512, None, licence=_UNKNOWN,
         note=_DRIVE),
    _row("superglobal_resnet50", _SUPERGLOBAL, 512, None, licence=_UNKNOWN,
         note=f"{_SAME_FILE}; {_SIZE}"),
    _row("superglobal_resnet101", dataclasses.replace(_SUPERGLOBAL, depths=_101), 512, None,
         licence=_UNKNOWN, note=_SAME_FILE),
))
# fmt: on
