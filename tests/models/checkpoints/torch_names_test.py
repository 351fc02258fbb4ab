"""timm's and open_clip's names: every row's layout, and the way from one format to the other."""

import hashlib
import json
import pathlib

import ml_dtypes
import numpy as np
import parity_weights as seeded
import pytest
from small_siglip import CONFIG, SIZES
from torch_written import layout, to_torch

from ilias_jax.errors import UserError
from ilias_jax.models.checkpoints.flax_names import from_big_vision
from ilias_jax.models.checkpoints.torch_names import from_torch
from ilias_jax.models.parameters import parameter_shapes
from ilias_jax.models.registry.registry import VARIANTS
from ilias_jax.models.registry.siglip import siglip

LAYOUTS = json.loads(
    (pathlib.Path(__file__).parents[2] / "data" / "siglip_layouts.json").read_text()
)
WITHOUT_HEAD = siglip(**SIZES | {"text": SIZES["image"], "text_head": False})
NAFLEX = siglip(**SIZES, naflex=True)


def identify(layout: dict[str, tuple[int, ...]]) -> tuple[int, str]:
    """As tests/reference/make_layout_values.py identifies a state dictionary."""
    lines = "".join(f"{key} {list(layout[key])}\n" for key in sorted(layout))
    return len(layout), hashlib.sha256(lines.encode()).hexdigest()


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_name_and_shape_is_timms_and_open_clips(name):
    config, published = VARIANTS[name].architecture, LAYOUTS[name]
    for library, towers in (("timm", "image"), ("open_clip", "both")):
        if published[library] is not None:
            expected = published[library]["tensors"], published[library]["sha256"]
            assert identify(layout(config, towers)) == expected


def converted_block(theirs: str, ours: str, arrays: dict[str, np.ndarray], text: bool) -> dict:
    """One big_vision block under PyTorch names, by the formulas of either library's converter."""
    attention = f"{ours}/MultiHeadDotProductAttention_0"
    qkv = [arrays[f"{attention}/{part}/kernel"] for part in ("query", "key", "value")]
    width = len(qkv[0])
    names = ("attn.in_proj_", "attn.out_proj", "mlp.c_fc", "mlp.c_proj", "ln_1", "ln_2")
    if not text:
        names = ("attn.qkv.", "attn.proj", "mlp.fc1", "mlp.fc2", "norm1", "norm2")
    joined, out, up, down, first, second = names
    biases = [arrays[f"{attention}/{part}/bias"] for part in ("query", "key", "value")]
    state = {
        f"{joined}weight": np.concatenate([kernel.reshape(width, width).T for kernel in qkv]),
        f"{joined}bias": np.concatenate([bias.reshape(-1) for bias in biases]),
        f"{out}.weight": arrays[f"{attention}/out/kernel"].reshape(width, width).T,
        f"{out}.bias": arrays[f"{attention}/out/bias"],
    }
    for name, dense in ((up, "Dense_0"), (down, "Dense_1")):
        state[f"{name}.weight"] = arrays[f"{ours}/MlpBlock_0/{dense}/kernel"].T
        state[f"{name}.bias"] = arrays[f"{ours}/MlpBlock_0/{dense}/bias"]
    for name, norm in ((first, "LayerNorm_0"), (second, "LayerNorm_1")):
        state[f"{name}.weight"] = arrays[f"{ours}/{norm}/scale"]
        state[f"{name}.bias"] = arrays[f"{ours}/{norm}/bias"]
    return {f"{theirs}.{key}": value for key, value in state.items()}


def converted_head(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The MAP head under timm's names."""
    attention, width = "img/MAPHead_0/MultiHeadDotProductAttention_0", seeded.IMAGE["width"]

    def weight(*parts: str) -> np.ndarray:
        kernels = [arrays[f"{attention}/{part}/kernel"].reshape(width, width).T for part in parts]
        return np.concatenate(kernels)

    def bias(*parts: str) -> np.ndarray:
        return np.concatenate([arrays[f"{attention}/{part}/bias"].reshape(-1) for part in parts])

    state = {
        "latent": arrays["img/MAPHead_0/probe"],
        "q.weight": weight("query"),
        "q.bias": bias("query"),
        "kv.weight": weight("key", "value"),
        "kv.bias": bias("key", "value"),
        "proj.weight": weight("out"),
        "proj.bias": bias("out"),
        "norm.weight": arrays["img/MAPHead_0/LayerNorm_0/scale"],
        "norm.bias": arrays["img/MAPHead_0/LayerNorm_0/bias"],
    }
    for name, dense in (("fc1", "Dense_0"), ("fc2", "Dense_1")):
        state[f"mlp.{name}.weight"] = arrays[f"img/MAPHead_0/MlpBlock_0/{dense}/kernel"].T
        state[f"mlp.{name}.bias"] = arrays[f"img/MAPHead_0/MlpBlock_0/{dense}/bias"]
    return {f"attn_pool.{key}": value for key, value in state.items()}


def converted(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """big_vision's arrays under open_clip's names, written without the table."""
    image = {
        "pos_embed": arrays["img/pos_embedding"],
        "patch_embed.proj.weight": arrays["img/embedding/kernel"].transpose(3, 2, 0, 1),
        "patch_embed.proj.bias": arrays["img/embedding/bias"],
        "norm.weight": arrays["img/Transformer/encoder_norm/scale"],
        "norm.bias": arrays["img/Transformer/encoder_norm/bias"],
        **converted_head(arrays),
    }
    for i in range(seeded.IMAGE["depth"]):
        name = f"img/Transformer/encoderblock_{i}"
        image |= converted_block(f"blocks.{i}", name, arrays, text=False)
    text = {
        "token_embedding.weight": arrays["txt/Embed_0/embedding"],
        "positional_embedding": arrays["txt/pos_embedding"][0],
        "ln_final.weight": arrays["txt/Encoder_0/encoder_norm/scale"],
        "ln_final.bias": arrays["txt/Encoder_0/encoder_norm/bias"],
        "text_projection.weight": arrays["txt/head/kernel"].T,
        "text_projection.bias": arrays["txt/head/bias"],
    }
    for i in range(seeded.TEXT["depth"]):
        name = f"txt/Encoder_0/encoderblock_{i}"
        text |= converted_block(f"transformer.resblocks.{i}", name, arrays, text=True)
    return {
        "logit_scale": arrays["t"][0],
        "logit_bias": arrays["b"][0],
        **{f"visual.trunk.{key}": value for key, value in image.items()},
        **{f"text.{key}": value for key, value in text.items()},
    }


@pytest.fixture(scope="module")
def both() -> dict[str, np.ndarray]:
    """The seeded weights under open_clip's names."""
    return converted(seeded.weights())


@pytest.fixture(scope="module")
def parameters() -> dict[str, np.ndarray]:
    """The seeded weights as ours, from big_vision's names."""
    return from_big_vision(seeded.weights(), CONFIG, "seeded weights")


def of_image(parameters: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {path: value for path, value in parameters.items() if path.startswith("image.")}


def timm_file(both: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    prefix = "visual.trunk."
    return {key.removeprefix(prefix): both[key] for key in both if key.startswith(prefix)}


def assert_equal(ours: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert ours.keys() == expected.keys()
    for path, value in ours.items():
        assert value.dtype == np.float32
        np.testing.assert_array_equal(value, expected[path], err_msg=path)


def problems(arrays: dict[str, np.ndarray], towers: str = "both") -> list[str]:
    with pytest.raises(UserError) as error:
        from_torch(arrays, CONFIG, "some.safetensors", towers)
    first, *rest = str(error.value).splitlines()
    assert first == f"some.safetensors does not fit the model; {len(rest)} differences:"
    return [line.strip() for line in rest]


def test_the_same_weights_come_from_either_format(both, parameters):
    assert_equal(from_torch(both, CONFIG, "x"), parameters)


def test_an_image_tower_comes_from_either_file(both, parameters):
    expected = of_image(parameters)
    assert_equal(from_torch(timm_file(both), CONFIG, "x", "image"), expected)
    assert_equal(from_torch(both, CONFIG, "x", "image"), expected)


@pytest.mark.parametrize("towers", ["both", "image"])
def test_writing_is_the_inverse_of_reading(both, parameters, towers):
    expected = both if towers == "both" else timm_file(both)
    written = dict(to_torch(parameters, CONFIG, towers))
    assert written.keys() == expected.keys()
    for key, value in written.items():
        np.testing.assert_array_equal(value, expected[key], err_msg=key)
    shapes = {key: value.shape for key, value in written.items()}
    assert shapes == layout(CONFIG, towers)


@pytest.mark.parametrize("config", [WITHOUT_HEAD, NAFLEX], ids=["without head", "naflex"])
def test_other_kinds_of_models_come_back_too(config):
    rng = np.random.default_rng(0)
    shapes = parameter_shapes(config)
    ours = {path: rng.standard_normal(shape, np.float32) for path, shape in shapes.items()}
    theirs = dict(to_torch(ours, config))
    assert_equal(from_torch(theirs, config, "x"), ours)


def test_naflex_embeds_patches_by_rows_of_pixels(parameters):
    """timm turns its convolution into such a layer by permute(0, 2, 3, 1).flatten(1)."""
    fixed = dict(to_torch(parameters, CONFIG, "image"))
    naflex = dict(to_torch(parameters, NAFLEX, "image"))
    weight = fixed["patch_embed.proj.weight"].transpose(0, 2, 3, 1).reshape(64, -1)
    np.testing.assert_array_equal(naflex["embeds.proj.weight"], weight)
    assert naflex["embeds.pos_embed"].shape == (1, 6, 6, 64)
    assert naflex.keys() - fixed.keys() == {
        "embeds.pos_embed",
        "embeds.proj.weight",
        "embeds.proj.bias",
    }


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_other_precisions_are_read(both, parameters, dtype):
    low = {key: value.astype(dtype) for key, value in both.items()}
    expected = {path: value.astype(dtype).astype(np.float32) for path, value in parameters.items()}
    assert_equal(from_torch(low, CONFIG, "x"), expected)


def test_one_message_lists_every_difference(both):
    arrays = dict(both)
    arrays["text.ln_last.bias"] = arrays.pop("text.ln_final.bias")
    arrays["visual.trunk.blocks.1.attn.qkv.weight"] = np.zeros((64, 64), np.float32)
    arrays["visual.trunk.pos_embed"] = np.zeros((1, 49, 64), np.float32)
    arrays["text.ln_final.weight"] = np.ones(48, np.int8)
    del arrays["logit_bias"]  # of the loss: of no use here
    assert problems(arrays) == [
        "unmapped key: text.ln_last.bias",
        "wrong shape: visual.trunk.pos_embed is (1, 49, 64), expected (1, 36, 64)",
        "wrong shape: visual.trunk.blocks.1.attn.qkv.weight is (64, 64), expected (192, 64)",
        "no floats: text.ln_final.weight is int8; quantised weights are not read",
        "unfilled parameter: text.ln_final.bias of shape (48,)",
    ]


def test_a_block_too_many_or_too_few_is_named(both):
    more = {**both, "visual.trunk.blocks.3.norm1.bias": np.zeros(64, np.float32)}
    assert problems(more) == ["unmapped key: visual.trunk.blocks.3.norm1.bias"]
    fewer = {key: value for key, value in both.items() if "resblocks.1." not in key}
    found = problems(fewer)
    assert len(found) == 12
    assert all(line.startswith("unfilled parameter: text.transformer.res") for line in found)


def test_an_image_tower_alone_must_still_be_whole(both):
    arrays = {**timm_file(both), "head.weight": np.zeros((10, 64), np.float32)}
    del arrays["norm.weight"]
    assert problems(arrays, "image") == [
        "unmapped key: head.weight",
        "unfilled parameter: norm.weight of shape (64,)",
    ]
