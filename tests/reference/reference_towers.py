"""timm's and open_clip's towers with the weights of a big_vision checkpoint, traced.

Every picture goes through alone, unbatched, by the official preprocessing: longest side by Pillow's
bicubic resize, normalise, then zero padding to a multiple of the patch size.
"""

import functools
import math
import pathlib
import sys
from collections.abc import Iterable
from typing import Any

import numpy as np
import open_clip
import open_clip.model
import timm
import torch
import torchvision.transforms.functional as transforms
from PIL import Image

sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "tests"))
from parity_cases import Case  # noqa: E402
from parity_summary import summarise  # noqa: E402

Arrays = dict[str, np.ndarray]
Traced = tuple[np.ndarray, np.ndarray]  # outputs [N, D] and summaries [N, layers, 8]


def preprocess(picture: np.ndarray, resolution: int, patch: int) -> torch.Tensor:
    """[H, W, 3] uint8 -> [1, 3, H', W'] float32, as the official extraction does."""
    height, width = picture.shape[:2]
    aspect = height / width
    new_height = max(1, int(resolution * aspect)) if aspect <= 1 else resolution
    new_width = max(1, int(resolution / aspect)) if aspect > 1 else resolution
    resized = Image.fromarray(picture).resize((new_width, new_height))
    normal = transforms.normalize(transforms.to_tensor(resized), [0.5] * 3, [0.5] * 3)
    pads = []
    for size in (new_width, new_height):  # torch pads the last axis first
        missing = math.ceil(size / patch) * patch - size
        pads += [missing // 2, missing - missing // 2]
    return torch.nn.functional.pad(normal, pads)[None]


def _qkv(block: Arrays, parts: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Projections of one attention, concatenated along the outputs: weight, bias."""
    names = [f"MultiHeadDotProductAttention_0/{part}" for part in parts]
    kernels = [block[f"{name}/kernel"] for name in names]
    weight = np.concatenate([kernel.reshape(kernel.shape[0], -1).T for kernel in kernels])
    return weight, np.concatenate([block[f"{name}/bias"].reshape(-1) for name in names])


def _out(block: Arrays) -> tuple[np.ndarray, np.ndarray]:
    kernel = block["MultiHeadDotProductAttention_0/out/kernel"]
    return kernel.reshape(-1, kernel.shape[-1]).T, block["MultiHeadDotProductAttention_0/out/bias"]


def _under(arrays: Arrays, prefix: str) -> Arrays:
    return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}


def _dense(state: Arrays, name: str, weight: np.ndarray, bias: np.ndarray) -> None:
    state[f"{name}.weight"], state[f"{name}.bias"] = weight, bias


def _norm(state: Arrays, name: str, arrays: Arrays, theirs: str) -> None:
    _dense(state, name, arrays[f"{theirs}/scale"], arrays[f"{theirs}/bias"])


def _mlp(state: Arrays, names: tuple[str, str], arrays: Arrays) -> None:
    for i, name in enumerate(names):
        dense = f"MlpBlock_0/Dense_{i}"
        _dense(state, name, arrays[f"{dense}/kernel"].T, arrays[f"{dense}/bias"])


def _patch_embedding(arrays: Arrays, case: Case) -> Arrays:
    """Patches and positions: a convolution, or timm's NaFlex with its linear layer and grid."""
    state: Arrays = {}
    kernel, bias = arrays["img/embedding/kernel"], arrays["img/embedding/bias"]
    position, side = arrays["img/pos_embedding"], case.sizes.native_grid
    if case.timm_name.startswith("naflex"):
        _dense(state, "embeds.proj", kernel.reshape(-1, kernel.shape[-1]).T, bias)
        state["embeds.pos_embed"] = position.reshape(1, side, side, -1)
    else:
        _dense(state, "patch_embed.proj", kernel.transpose(3, 2, 0, 1), bias)
        state["pos_embed"] = position
    return state


def timm_state(arrays: Arrays, case: Case) -> Arrays:
    """The image tower by timm's names."""
    state = _patch_embedding(arrays, case)
    for i in range(case.sizes.image["depth"]):
        block, name = _under(arrays, f"img/Transformer/encoderblock_{i}/"), f"blocks.{i}"
        _norm(state, f"{name}.norm1", block, "LayerNorm_0")
        _dense(state, f"{name}.attn.qkv", *_qkv(block, ("query", "key", "value")))
        _dense(state, f"{name}.attn.proj", *_out(block))
        _norm(state, f"{name}.norm2", block, "LayerNorm_1")
        _mlp(state, (f"{name}.mlp.fc1", f"{name}.mlp.fc2"), block)
    _norm(state, "norm", arrays, "img/Transformer/encoder_norm")
    head = _under(arrays, "img/MAPHead_0/")
    state["attn_pool.latent"] = head["probe"]
    _dense(state, "attn_pool.q", *_qkv(head, ("query",)))
    _dense(state, "attn_pool.kv", *_qkv(head, ("key", "value")))
    _dense(state, "attn_pool.proj", *_out(head))
    _norm(state, "attn_pool.norm", head, "LayerNorm_0")
    _mlp(state, ("attn_pool.mlp.fc1", "attn_pool.mlp.fc2"), head)
    return state


def open_clip_state(arrays: Arrays, case: Case) -> Arrays:
    """The text tower by open_clip's names."""
    state = {
        "token_embedding.weight": arrays["txt/Embed_0/embedding"],
        "positional_embedding": arrays["txt/pos_embedding"][0],
    }
    for i in range(case.sizes.text["depth"]):
        block = _under(arrays, f"txt/Encoder_0/encoderblock_{i}/")
        name = f"transformer.resblocks.{i}"
        _norm(state, f"{name}.ln_1", block, "LayerNorm_0")
        weight, bias = _qkv(block, ("query", "key", "value"))
        state[f"{name}.attn.in_proj_weight"], state[f"{name}.attn.in_proj_bias"] = weight, bias
        _dense(state, f"{name}.attn.out_proj", *_out(block))
        _norm(state, f"{name}.ln_2", block, "LayerNorm_1")
        _mlp(state, (f"{name}.mlp.c_fc", f"{name}.mlp.c_proj"), block)
    _norm(state, "ln_final", arrays, "txt/Encoder_0/encoder_norm")
    if case.sizes.text_head:
        _dense(state, "text_projection", arrays["txt/head/kernel"].T, arrays["txt/head/bias"])
    return state


def _load(module: torch.nn.Module, state: Arrays) -> torch.nn.Module:
    tensors = {key: torch.tensor(np.ascontiguousarray(value)) for key, value in state.items()}
    module.load_state_dict(tensors, strict=True)
    return module.eval()


def _gelu(activation: str) -> functools.partial[torch.nn.GELU]:
    approximate = "tanh" if activation == "gelu_tanh" else "none"
    return functools.partial(torch.nn.GELU, approximate=approximate)


def shipped_activation(module: Any) -> str:
    """The form of the GELU that a timm model has if none is asked for."""
    act = module.blocks[0].mlp.act
    if isinstance(act, torch.nn.GELU):
        return "gelu_tanh" if act.approximate == "tanh" else "gelu_exact"
    return {"GELUTanh": "gelu_tanh"}.get(type(act).__name__, repr(act))


def image_tower(arrays: Arrays, case: Case, activation: str) -> torch.nn.Module:
    """timm's SigLIP entry point, made as the official extraction makes it.

    Raises:
        ValueError: timm ships another activation than the case says.
    """
    changes: dict[str, Any] = dict(case.timm_changes)
    if not case.timm_name.startswith("naflex"):  # which takes any grid without being told
        changes["dynamic_img_size"] = True
    if activation != case.activations[0]:
        changes["act_layer"] = _gelu(activation)
    module = timm.create_model(case.timm_name, num_classes=0, **changes)
    if shipped_activation(module) != activation:
        raise ValueError(f"{case.timm_name} has {shipped_activation(module)}, not {activation}")
    return _load(module, timm_state(arrays, case))


def text_tower(arrays: Arrays, case: Case, activation: str) -> torch.nn.Module:
    """open_clip's text tower as its SigLIP configuration builds it."""
    config = open_clip.get_model_config(case.open_clip_name)
    tanh = {"approximate": "tanh"} if activation == "gelu_tanh" else None
    text = config["text_cfg"] | case.open_clip_changes | {"act_kwargs": tanh}
    module = open_clip.model._build_text_tower(case.sizes.image["width"], text)
    return _load(module, open_clip_state(arrays, case))


class Tracer:
    """Keeps the summary of what each layer gives for one input, in the order of the layers."""

    def __init__(self, layers: Iterable[torch.nn.Module]) -> None:
        self.summaries: list[np.ndarray] = []
        for layer in layers:
            layer.register_forward_hook(self._keep)

    def _keep(self, module: torch.nn.Module, inputs: Any, output: torch.Tensor) -> None:
        # [1, T, D], from a patch embedding [1, rows, columns, D], pooled [1, D].
        self.summaries.append(summarise(output.numpy().reshape(-1, output.shape[-1])))

    def take(self) -> np.ndarray:
        """[layers, 8] of the input since the last time."""
        taken, self.summaries = np.stack(self.summaries), []
        return taken


def _image_layers(module: Any) -> list[torch.nn.Module]:
    """As `parity_summary.image_layers` names them."""
    embedding = (
        [module.embeds.norm, module.norm_pre]
        if hasattr(module, "embeds")
        else [module.patch_embed, module.norm_pre]  # an identity behind the position
    )
    return [*embedding, *module.blocks, module.norm, module.attn_pool]


@torch.inference_mode()
def image_values(module: Any, case: Case, resolution: int, pictures: list[np.ndarray]) -> Traced:
    """Outputs and summaries of an image tower."""
    tracer, outputs, summaries = Tracer(_image_layers(module)), [], []
    for picture in pictures:
        outputs.append(module(preprocess(picture, resolution, case.sizes.patch)).numpy()[0])
        summaries.append(tracer.take())
    return np.stack(outputs), np.stack(summaries)


@torch.inference_mode()
def text_values(module: Any, tokens: np.ndarray) -> Traced:
    """Outputs and summaries of a text tower."""
    position = torch.nn.Identity()
    inner = module.transformer
    inner.register_forward_pre_hook(lambda _, inputs: (position(inputs[0]),))
    layers = [module.token_embedding, position, *inner.resblocks, module.ln_final]
    if module.text_projection is not None:
        layers.append(module.text_projection)
    tracer, outputs, summaries = Tracer(layers), [], []
    for row in tokens:
        outputs.append(module(torch.tensor(row[None]).long()).numpy()[0])
        summaries.append(tracer.take())
    return np.stack(outputs), np.stack(summaries)
