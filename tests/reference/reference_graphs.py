"""The networks of the published rows by the code that has them, without weights.

timm and open_clip are installed. The rest runs from checkouts that lie in one folder as OWNER+NAME,
none of which is part of this project; these commits were used:

    facebookresearch+dino         7c446df5b9f45747937fb0d72314eb9f7b66930a
    facebookresearch+dinov2       b8931f7bf91576930313be2c6d6af376033b35f0
    facebookresearch+dinov3       6876159a11b4df116f30f667f8c9888617df0751
    ilias-vrg+ilias               e81029e50e8e907b990d3e22898663cd81de1bfd
    naver+unic                    02269dbfa2935d53ba7cef76c29d5453333d9ba7
    tjddus9597+HIER-CVPR23        3986a744a1a54fd357e307d1cb3f2e81910b9ffc
    yash0307+RecallatK_surrogate  ed052029d258555df2f94dd82d6f7df60ef7cc6f
"""

import contextlib
import dataclasses
import functools
import importlib
import pathlib
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import open_clip
import open_clip.transformer
import timm
import timm.layers
import torch
from PIL import Image

sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "tests"))
from graph_cases import GraphCase, Pictures  # noqa: E402

Call = Callable[[torch.Tensor], torch.Tensor]
_TOOLKIT = "ilias-vrg+ilias/feature_extraction"
_FORMS = {
    torch.nn.GELU: "gelu_exact",
    timm.layers.GELUTanh: "gelu_tanh",
    timm.layers.QuickGELU: "quick_gelu",
    open_clip.transformer.QuickGELU: "quick_gelu",
    torch.nn.ReLU6: "relu6",
    torch.nn.SiLU: "silu",
}
_TIMM = {"gelu_exact": torch.nn.GELU, "gelu_tanh": "gelu_tanh", "quick_gelu": "quick_gelu"}
_UNIC_IMAGE_SIZE = 224  # of its training code; the published file holds its own, 16 x 16 or more
_HIER_SOP = {  # arguments of the training on Stanford Online Products
    "model": "dino_vits16",
    "emb": 128,
    "hyp_c": 0.1,
    "clip_r": 2.3,
    "use_lastnorm": True,
}


@dataclasses.dataclass(frozen=True)
class Reference:
    """A network of somebody else.

    Attributes:
        module: what a state dictionary is loaded into.
        body: the part of it with `norm` or `ln_final`.
        parent: what has the container of the blocks.
        blocks: name of that container in its parent.
        embedding: gives the first tokens.
        call: [1, ...] inputs -> [1, D] float32 outputs before any L2 normalisation.
    """

    module: Any
    body: Any
    parent: Any
    blocks: str
    embedding: Any
    call: Call


def _vit(module: Any, body: Any = None, call: Call | None = None) -> Reference:
    """With the names that all descendants of timm's ViT share."""
    body = module if body is None else body
    return Reference(module, body, body, "blocks", body.patch_embed, call or module)


@contextlib.contextmanager
def importing(folder: pathlib.Path, **stubs: types.ModuleType) -> Iterator[None]:
    """Modules are imported from a folder; afterwards their names are free for another one's.

    Args:
        folder: goes first on the path.
        stubs: modules that the code there imports and never uses here.
    """
    before = set(sys.modules)
    sys.path.insert(0, str(folder))
    sys.modules.update(stubs)
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        for name in set(sys.modules) - before:
            place = folder / name.partition(".")[0]
            if name in stubs or place.exists() or place.with_suffix(".py").exists():
                sys.modules.pop(name)


def _timm(case: GraphCase, activation: str, upstream: pathlib.Path) -> Reference:
    """As the toolkit makes it: the heads of CLIP and PE stay."""
    keep = "clip" in case.reference or "pe_core" in case.reference
    return _timm_model(case, activation, None if keep else 0)


def _timm_features(case: GraphCase, activation: str, upstream: pathlib.Path) -> Reference:
    """The normalised class token."""
    return _timm_model(case, activation, 0)


def _timm_model(case: GraphCase, activation: str, num_classes: int | None) -> Reference:
    changes = {} if activation == case.activations[0] else {"act_layer": _TIMM[activation]}
    return _vit(
        timm.create_model(case.reference, num_classes=num_classes, dynamic_img_size=True, **changes)
    )


def _dino(case: GraphCase, activation: str, upstream: pathlib.Path) -> Reference:
    return _vit(_dino_body(case.reference, upstream))


def _dino_body(name: str, upstream: pathlib.Path) -> torch.nn.Module:
    with importing(upstream / "facebookresearch+dino"):
        return getattr(importlib.import_module("hubconf"), name)(pretrained=False)


def _hub(project: str, case: GraphCase, activation: str, upstream: pathlib.Path) -> Reference:
    """DINOv2 and DINOv3 as `torch.hub` makes them."""
    with importing(upstream / f"facebookresearch+{project}"):
        backbones = importlib.import_module(f"{project}.hub.backbones")
        return _vit(getattr(backbones, case.reference)(pretrained=False))


def _unic(case: GraphCase, activation: str, upstream: pathlib.Path) -> Reference:
    with importing(upstream / "naver+unic"):
        vits = importlib.import_module("dinov2.models.vision_transformer")
        module = vits.get_model(
            arch="vit_large", patch_size=14, drop_path_rate=0.0, img_size=_UNIC_IMAGE_SIZE
        )
    chunk = module.blocks
    return Reference(
        module, module, chunk, "0", module.patch_embed, lambda x: module(x)["x_norm_clstoken"]
    )


def _unicom(case: GraphCase, activation: str, upstream: pathlib.Path) -> Reference:
    unicom = toolkit(upstream, "model.extractors.unicom")
    return _vit(unicom.build_model(unicom.NAME_MAPPING[case.reference]))


@functools.cache
def toolkit(upstream: pathlib.Path, name: str) -> types.ModuleType:
    """A module of the toolkit, without its packages, which would import all of it."""
    root = upstream / _TOOLKIT
    packages = {}
    for package in ("src", "src.datasets", "src.model", "src.model.extractors"):
        packages[package] = types.ModuleType(package)
        packages[package].__path__ = [str(root / package.replace(".", "/"))]
    with importing(root, **packages):
        return importlib.import_module(f"src.{name}")


def _hier(case: GraphCase, activation: str, upstream: pathlib.Path) -> Reference:
    """Up to the last dense layer; that its map into the ball keeps directions is checked."""
    body = _dino_body(case.reference, upstream)
    with (
        importing(upstream / "tjddus9597+HIER-CVPR23/hier"),
        mock.patch.object(torch.hub, "load", lambda *_: body),
        mock.patch.object(torch.nn.Module, "cuda", lambda module: module),
    ):
        models = importlib.import_module("models.model")
        module = models.init_model(types.SimpleNamespace(**_HIER_SOP))
    to_ball, module.last_layer[2] = module.last_layer[2], torch.nn.Identity()

    def call(pixels: torch.Tensor) -> torch.Tensor:
        outputs = module(pixels)
        cosine = torch.nn.functional.cosine_similarity(to_ball(outputs), outputs)
        if not abs(cosine.item() - 1) < 1e-6:
            raise ValueError(f"the map into the ball turns the output: cosine {cosine.item()}")
        return outputs

    return _vit(module, module.body, call)


def _recall(case: GraphCase, activation: str, upstream: pathlib.Path) -> Reference:
    """Its own forward function, which knows one size of picture, with the position resampled."""
    stub = types.ModuleType("pretrainedmodels")
    with importing(upstream / "yash0307+RecallatK_surrogate/src", pretrainedmodels=stub):
        options = types.SimpleNamespace(not_pretrained=True, embed_dim=512)
        module = importlib.import_module("netlib").ViTB16(options)
    body = module.model
    body.pre_logits = torch.nn.Identity()  # timm's of that time had one
    body.patch_embed.strict_img_size = False
    heads: list[torch.Tensor] = []
    body.head.register_forward_hook(lambda _, __, output: heads.append(output))

    def call(pixels: torch.Tensor) -> torch.Tensor:
        native, grid = body.pos_embed, [side // 16 for side in pixels.shape[2:]]
        resampled = timm.layers.resample_abs_pos_embed(native, grid, num_prefix_tokens=1)
        body.pos_embed = torch.nn.Parameter(resampled)
        module(pixels)
        body.pos_embed = native
        return heads.pop()

    return _vit(module, body, call)


def _open_clip(case: GraphCase, activation: str, upstream: pathlib.Path) -> Reference:
    """The whole model as its configuration builds it, but with the smallest of image towers."""
    config = open_clip.get_model_config(case.reference)
    build = open_clip.CustomTextCLIP if config.get("custom_text") else open_clip.CLIP
    module = build(
        config["embed_dim"],
        open_clip.CLIPVisionCfg(layers=1, width=64, patch_size=32, image_size=32),
        config["text_cfg"],
        quick_gelu=activation == "quick_gelu",
    )
    del module.visual
    text = module.text if config.get("custom_text") else module
    return Reference(
        module, text, text.transformer, "resblocks", text.token_embedding, module.encode_text
    )


BUILDERS: dict[str, Callable[[GraphCase, str, pathlib.Path], Reference]] = {
    "timm": _timm,
    "timm_features": _timm_features,
    "dino": _dino,
    "dinov2": functools.partial(_hub, "dinov2"),
    "dinov3": functools.partial(_hub, "dinov3"),
    "unic": _unic,
    "unicom": _unicom,
    "hier": _hier,
    "recall": _recall,
    "open_clip": _open_clip,
}


def build(case: GraphCase, activation: str, upstream: pathlib.Path) -> Reference:
    """The network of a case with as many blocks as it has.

    Raises:
        ValueError: the reference has another activation, or fewer blocks.
    """
    reference = BUILDERS[case.kind](case, activation, upstream)
    blocks = getattr(reference.parent, reference.blocks)[: case.depth]
    setattr(reference.parent, reference.blocks, blocks)
    if len(blocks) != case.depth:
        raise ValueError(f"{case.name} has {len(blocks)} blocks, not {case.depth}")
    mlp = blocks[0].mlp
    form = _FORMS[type(mlp.gelu if case.kind == "open_clip" else mlp.act)]
    if form != activation:
        raise ValueError(f"{case.name} has {form}, not {activation}")
    reference.module.eval()
    return reference


def inputs(case: GraphCase, upstream: pathlib.Path) -> list[torch.Tensor]:
    """Of one call each: [1, 3, H, W] float32 pixels by the toolkit's code, or [1, L] int64."""
    if not isinstance(case.inputs, Pictures):
        return [torch.tensor(row[None]).long() for row in case.inputs.tokens()]
    how, colours = toolkit(upstream, "datasets.transforms"), case.inputs.colours
    resize = how.InferenceTransforms.RESIZE_LARGE.get_transforms(
        case.inputs.resolution, mean=list(colours.mean), std=list(colours.std)
    )
    pad = how.MultiplierPadding(case.inputs.patch)
    return [pad(resize(Image.fromarray(picture))[None]) for picture in case.inputs.arrays()]


def final_norm(body: Any) -> torch.nn.Module | None:
    """The norm behind the last block; None if there is none."""
    norm = body.ln_final if hasattr(body, "ln_final") else body.norm
    return None if isinstance(norm, torch.nn.Identity) else norm
