"""Every distinct CNN of the table, its weights that a seed defines, and its pictures.

Numpy only, as `tests/reference/make_cnn_values.py` reads it where there is no JAX. Each case has a
file of expected values, `tests/data/cnns/NAME.npz`:

    outputs   [N, D] float32, unnormalised, of each picture alone
    layout    bytes of a JSON object: the reference's name of each array -> its shape
    weights   [arrays, 4] float32, `graph_weights.fingerprint` of each, in their order
    versions  of what made it

A reduced case is a narrow and shallow network of the same code.
"""

import dataclasses
import math
import pathlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import parity_weights as seeded
from graph_cases import CLIP, HALF, IMAGENET, Pictures
from parity_weights import Drawn

FOLDER = pathlib.Path(__file__).parent / "data" / "cnns"
REDUCED = "_reduced"
# (width, height): square, 4:3, 3:4, 16:9, odd-sided at a test size, thin either way.
SIZES = ((500, 500), (640, 480), (480, 640), (640, 360), (511, 337), (90, 720), (720, 95))
LESS_THIN = (*SIZES[:5], (140, 720), (720, 145))  # of networks with a large smallest side
# Resized to 96 these have sides of 96, 72, 54, 63, 35 and 96 pixels.
SMALL_SIZES = ((200, 200), (160, 120), (90, 160), (151, 100), (300, 110), (96, 96))
SMALL = 96
# Batch norms divide by about this; small, so that what they add to the variance counts.
_VARIANCE = 0.05
# (end of the name, scale, offset) of what is no kernel; the first that fits counts.
_RULES = (
    (r"running_mean", 0.3 * _VARIANCE**0.5, 0.0),
    (r"running_var", 0.3 * _VARIANCE, _VARIANCE),
    # Faint maps between ConvNeXt's norms, or their epsilon would hardly count.
    (r"(stem\.0|stages\.\d+\.downsample\.1)\.weight", 0.001, 0.0),
    (r"(stem\.[01]|stages\.\d+\.downsample\.1)\.bias", 0.002, 0.0),
    (r"stem\.1\.weight", 0.003, 0.01),
    (r"gamma", 0.004, 0.012),
    (r"positional_embedding", 0.3, 0.0),
    (r"encoder_q\.head\.fc\.bias", 0.004, 0.0),  # SuperGlobal's is of vectors of unit length
    # RS@k's last maps, which enter a LayerNorm: small for the same reason.
    (r"model\.layer4\.\d+\.(bn3|downsample\.1)\.(weight|bias)", 0.02, 0.02),
    (r"bias", 0.2, 0.0),
    # What a block adds; deep networks grow slowly then.
    (r"(bn3|c_bn)\.weight", 0.1, 0.4),
)


@dataclasses.dataclass(frozen=True)
class CnnCase:
    """A network and what it is run on.

    Attributes:
        name: of the file.
        kind: which code runs it, a key of `make_cnn_values.BUILDERS`.
        row: the row of the table that it is built as.
        pictures: its inputs, which are not padded.
        shared: other rows with the same network, whose weights or colours may differ.
        alias: what the code of `kind` calls it, if not `row`.
        ours: changes of the row's architecture that make it small.
        theirs: arguments of the reference that do.
        has_norms: whether a batch norm follows each convolution.
    """

    name: str
    kind: str
    row: str
    pictures: Pictures
    shared: tuple[str, ...] = ()
    alias: str = ""
    ours: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    theirs: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    has_norms: bool = True

    @property
    def reference(self) -> str:
        """What the code of `kind` calls it."""
        return self.alias or self.row

    @property
    def reduced(self) -> bool:
        """Whether it is small."""
        return self.name.endswith(REDUCED)

    @property
    def path(self) -> pathlib.Path:
        """Its file of expected values."""
        return FOLDER / f"{self.name}.npz"

    def draw(self, layout: Mapping[str, tuple[int, ...]]) -> Iterator[tuple[str, np.ndarray]]:
        """Every array of a state dictionary of these shapes, float32, the same bits everywhere."""
        for name, shape in layout.items():
            if name.endswith("num_batches_tracked"):
                yield name, np.zeros(shape, np.int64)
            elif re.search(r"(^|\.)p$", name):  # of GeM
                yield name, np.full(shape, 2.7, np.float32)
            else:
                yield name, seeded.draw({name: self._drawn(name, shape)}, seeded.SEED)[name]

    def _drawn(self, name: str, shape: tuple[int, ...]) -> Drawn:
        for end, scale, offset in _RULES:
            if re.search(rf"(^|[._]){end}$", name):
                return Drawn(shape, scale, offset)
        if name.endswith("weight") and len(shape) == 1:  # of a norm
            return Drawn(shape, 0.3, 1.0)
        gain = (2 * _VARIANCE) ** 0.5 if self.has_norms else 2**0.5
        if len(shape) == 2:
            gain = 1.0
        return Drawn(shape, gain * math.prod(shape[1:]) ** -0.5)


def _with_small(
    case: CnnCase,
    ours: Mapping[str, Any],
    theirs: Mapping[str, Any],
    resolution: int = SMALL,
) -> list[CnnCase]:
    """A case and its reduced one, of pictures of this longest side."""
    small = dataclasses.replace(
        case,
        name=case.name + REDUCED,
        pictures=dataclasses.replace(case.pictures, resolution=resolution, sizes=SMALL_SIZES),
        ours=ours,
        theirs=theirs,
    )
    return [case, small]


_384 = Pictures(384, 1, IMAGENET, SIZES)
_512 = Pictures(512, 1, HALF, LESS_THIN)
_CLIP_384 = Pictures(384, 1, CLIP, SIZES)

_RESNETS = (
    *_with_small(
        CnnCase(
            "resnet50",
            "timm",
            "resnet50.tv_in1k",
            _384,
            ("swav_resnet50", "dino_resnet50", "moco_v3_resnet50"),
        ),
        {"depths": (2, 1, 1, 1)},
        {"layers": (2, 1, 1, 1)},
    ),
    CnnCase("resnet101", "timm", "resnet101.tv_in1k", _384),
)

_SMALL_NEXT = {"depths": (1, 1, 2, 1)}
_SMALL_WIDTHS = (32, 48, 64, 96)
_CONVNEXTS = (
    *_with_small(
        CnnCase(
            "convnext_b",
            "timm",
            "convnext_base.fb_in1k",
            _384,
            (
                "convnext_base.fb_in22k",
                "convnext_base.dinov3_lvd1689m",
                "convnext_base.eupe_lvd1689m",
            ),
        ),
        {**_SMALL_NEXT, "widths": _SMALL_WIDTHS},
        {**_SMALL_NEXT, "dims": _SMALL_WIDTHS},
    ),
    CnnCase(
        "convnext_l",
        "timm",
        "convnext_large.fb_in1k",
        _384,
        ("convnext_large.fb_in22k", "convnext_large.dinov3_lvd1689m"),
    ),
    CnnCase(
        "convnext_t",
        "timm",
        "convnext_tiny.dinov3_lvd1689m",
        _384,
        ("convnext_tiny.eupe_lvd1689m",),
    ),
    CnnCase(
        "convnext_s",
        "timm",
        "convnext_small.dinov3_lvd1689m",
        _384,
        ("convnext_small.eupe_lvd1689m",),
    ),
    CnnCase("convnext_b_clip", "timm_clip", "convnext_base.clip_laion2b_augreg", _CLIP_384),
    *_with_small(
        CnnCase(
            "convnext_l_clip",
            "timm_clip",
            "convnext_large_mlp.clip_laion2b_ft_soup_320",
            Pictures(512, 1, CLIP, SIZES),
        ),
        {**_SMALL_NEXT, "widths": _SMALL_WIDTHS, "dim": 40},
        {**_SMALL_NEXT, "dims": _SMALL_WIDTHS, "num_classes": 40, "head_hidden_size": 96},
    ),
)

_EFFICIENT = Pictures(512, 1, IMAGENET, SIZES)
_OTHERS = (
    CnnCase(
        "alexnet",
        "torchvision",
        "alexnet.tv_in1k",
        dataclasses.replace(_384, sizes=LESS_THIN),
        alias="alexnet",
        has_norms=False,
    ),
    CnnCase("vgg16", "timm_map", "vgg16.tv_in1k", _384, has_norms=False),
    *_with_small(
        CnnCase("densenet169", "timm", "densenet169.tv_in1k", _384),
        {"depths": (2, 3), "growth": 16},
        {"block_config": (2, 3), "growth_rate": 16},
    ),
    CnnCase("inception_v4", "timm", "inception_v4.tf_in1k", _512),
    *_with_small(
        CnnCase("nasnet", "nasnet", "nasnetalarge.tf_in1k", dataclasses.replace(_512, sizes=SIZES)),
        {"width": 16, "stem": 8, "cells": 2, "groups": 1},
        {"num_features": 384, "stem_size": 8, "cells": 2, "groups": 1},
    ),
    CnnCase("efficientnet_b4", "timm", "tf_efficientnet_b4.ns_jft_in1k", _EFFICIENT),
    CnnCase(
        "efficientnet" + REDUCED,
        "efficientnet",
        "tf_efficientnet_b4.ns_jft_in1k",
        dataclasses.replace(_EFFICIENT, resolution=SMALL, sizes=SMALL_SIZES),
        ours={"stem": 8, "head": 320},
        theirs={"channel_multiplier": 0.25, "depth_multiplier": 0.5},
    ),
    CnnCase(
        "efficientnet_lite" + REDUCED,
        "efficientnet",
        "tf_efficientnet_b4.ns_jft_in1k",
        dataclasses.replace(_EFFICIENT, resolution=SMALL, sizes=SMALL_SIZES),
        ours={"stem": 32, "head": 1280, "squeeze": False, "activation": "relu6"},
        theirs={"lite": True, "channel_multiplier": 0.25, "depth_multiplier": 0.5},
    ),
)

_724 = Pictures(724, 1, IMAGENET, SIZES)
_FEW_BLOCKS = {"depths": (2, 1, 1, 1)}
_HEADS = (
    *_with_small(
        CnnCase("recall_resnet50", "recall", "recall_512-resnet50", _384),
        _FEW_BLOCKS,
        {"layers": (2, 1, 1, 1)},
    ),
    *_with_small(
        CnnCase("cvnet_resnet50", "cvnet", "cvnet_resnet50", _724),
        _FEW_BLOCKS,
        _FEW_BLOCKS,
    ),
    CnnCase("cvnet_resnet101", "cvnet", "cvnet_resnet101", _724),
    *_with_small(
        CnnCase("superglobal_resnet50", "cvnet", "superglobal_resnet50", _724),
        _FEW_BLOCKS,
        _FEW_BLOCKS,
        resolution=2 * SMALL,  # maps of 6 x 6, 5 x 6 and smaller ones, which are pooled otherwise
    ),
    CnnCase("superglobal_resnet101", "cvnet", "superglobal_resnet101", _724),
    *_with_small(
        CnnCase("clip_rn50", "clip", "RN50.openai", _CLIP_384, alias="RN50"),
        {"depths": (1, 1, 2, 1), "width": 16, "dim": 32, "num_heads": 8},
        {"layers": (1, 1, 2, 1), "width": 16, "output_dim": 32, "heads": 8},
    ),
)

CNNS: dict[str, CnnCase] = {case.name: case for case in (*_RESNETS, *_CONVNEXTS, *_OTHERS, *_HEADS)}
