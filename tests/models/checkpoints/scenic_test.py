"""Checkpoints of Scenic's train states, written by flax as that training writes them."""

import dataclasses

import numpy as np
import pytest
from flax import serialization

from ilias_jax.errors import UserError
from ilias_jax.models.dual_encoder import DualEncoderConfig
from ilias_jax.models.layers import TransformerSize
from ilias_jax.models.load import load_checkpoint
from ilias_jax.models.parameters import parameter_shapes
from ilias_jax.models.registry.registry import VARIANTS

WIDTH, HEADS, HIDDEN, GRID, PATCH, DEPTH = 8, 2, 12, 3, 4, 3
SIZE = TransformerSize(WIDTH, DEPTH, HIDDEN, HEADS)
ROWS = {
    "clip": "uscrr_64-vit_base_patch16_clip_224.openai",
    "vit": "udon_64-vitb_in21k_ft_in1k",
}


def config(kind: str) -> DualEncoderConfig:
    """The row's, made small."""
    image = VARIANTS[ROWS[kind]].architecture.image
    return DualEncoderConfig(
        dataclasses.replace(image, size=SIZE, patch_size=PATCH, native_grid=GRID)
    )


def norm() -> dict:
    return {"scale": (WIDTH,), "bias": (WIDTH,)}


def dense(inputs: int, outputs: int) -> dict:
    return {"kernel": (inputs, outputs), "bias": (outputs,)}


def attention() -> dict:
    each = {"kernel": (WIDTH, HEADS, WIDTH // HEADS), "bias": (HEADS, WIDTH // HEADS)}
    out = {"kernel": (HEADS, WIDTH // HEADS, WIDTH), "bias": (WIDTH,)}
    return {"query": each, "key": each, "value": each, "out": out}


def clip_shapes() -> dict:
    """As the modules of clip_vit_with_embedding name their parameters."""
    blocks = {
        f"resblocks.{i}": {
            "ln_1": norm(),
            "attn": attention(),
            "ln_2": norm(),
            "mlp": {"c_fc": dense(WIDTH, HIDDEN), "c_proj": dense(HIDDEN, WIDTH)},
        }
        for i in range(DEPTH)
    }
    return {
        "class_embedding": (WIDTH,),
        "positional_embedding": (1 + GRID**2, WIDTH),
        "conv1": {"kernel": (PATCH, PATCH, 3, WIDTH)},
        "ln_pre": norm(),
        "transformer": blocks,
        "ln_post": norm(),
        "projection": dense(WIDTH, 4),
        "output_projection_cars": {"kernel": (4, 9)},
    }


def vit_shapes() -> dict:
    """As those of udon_vit_with_embedding."""
    blocks = {
        f"encoderblock_{i}": {
            "LayerNorm_0": norm(),
            "MultiHeadDotProductAttention_0": attention(),
            "LayerNorm_1": norm(),
            "MlpBlock_0": {"Dense_0": dense(WIDTH, HIDDEN), "Dense_1": dense(HIDDEN, WIDTH)},
        }
        for i in range(DEPTH)
    }
    return {
        "cls": (1, 1, WIDTH),
        "embedding": {"kernel": (PATCH, PATCH, 3, WIDTH), "bias": (WIDTH,)},
        "Transformer": {
            "posembed_input": {"pos_embedding": (1, 1 + GRID**2, WIDTH)},
            **blocks,
            "encoder_norm": norm(),
        },
        "universal_student_projection_domain_0": {"Dense_0": dense(WIDTH, 4)},
        "teacher_projection_domain_cars": {"Dense_0": dense(WIDTH, 5)},
    }


def drawn(shapes: dict, rng: np.random.Generator | None = None) -> dict:
    rng = rng or np.random.default_rng(0)
    return {
        key: drawn(value, rng)
        if isinstance(value, dict)
        else rng.normal(size=value).astype(np.float32)
        for key, value in shapes.items()
    }


SHAPES = {"clip": clip_shapes, "vit": vit_shapes}


def write(path, params: dict) -> None:
    state = {
        "params": params,
        "opt_state": {"0": {"mu": {"x": np.zeros(3, np.float32)}}},
        "global_step": 7,
        "model_state": {},
        "rng": np.zeros(2, np.uint32),
    }
    path.write_bytes(serialization.msgpack_serialize(state))


@pytest.mark.parametrize("kind", SHAPES)
def test_a_train_state_fills_every_parameter(tmp_path, kind):
    params = drawn(SHAPES[kind]())
    write(tmp_path / "checkpoint_7", params)
    ours = load_checkpoint(tmp_path / "checkpoint_7", config(kind), "image")
    shapes = parameter_shapes(config(kind), "image")
    assert {path: value.shape for path, value in ours.items()} == shapes
    block = params["transformer"]["resblocks.1"] if kind == "clip" else None
    block = block or params["Transformer"]["encoderblock_1"]
    attend = block["attn" if kind == "clip" else "MultiHeadDotProductAttention_0"]
    kernel = ours["image.encoder.blocks.attention.key.kernel"][1]
    np.testing.assert_array_equal(kernel, attend["key"]["kernel"])
    positions = params["positional_embedding"] if kind == "clip" else None
    if kind == "vit":
        positions = params["Transformer"]["posembed_input"]["pos_embedding"][0]
    np.testing.assert_array_equal(ours["image.class_position"], positions[:1])
    np.testing.assert_array_equal(ours["image.position"].reshape(-1, WIDTH), positions[1:])
    used = {float(value.ravel()[0]) for value in ours.values()}
    assert len(used) == len(ours)  # every parameter from another array


def test_all_differences_stand_in_one_message(tmp_path):
    params = drawn(clip_shapes())
    params["ln_past"] = params.pop("ln_post")
    params["transformer"]["resblocks.0"]["mlp"]["c_fc"]["bias"] = np.zeros(5, np.float32)
    write(tmp_path / "c", params)
    with pytest.raises(UserError) as error:
        load_checkpoint(tmp_path / "c", config("clip"), "image")
    assert [line.strip() for line in str(error.value).splitlines()[1:]] == [
        "unmapped key: params/ln_past/bias",
        "unmapped key: params/ln_past/scale",
        "wrong shape: params/transformer/resblocks.0/mlp/c_fc/bias is (5,), expected (12,)",
        "unfilled parameter: params/ln_post/scale of shape (8,)",
        "unfilled parameter: params/ln_post/bias of shape (8,)",
    ]


def test_there_is_no_text_tower(tmp_path):
    write(tmp_path / "c", drawn(clip_shapes()))
    with pytest.raises(UserError, match="no text tower.*model.towers=image"):
        load_checkpoint(tmp_path / "c", config("clip"), "both")


@pytest.mark.parametrize(
    "name", ["vit_base_patch16_clip_224.openai", "eva02_base_patch14_224.mim_in22k"]
)
def test_a_model_with_more_than_the_file_fills_is_refused(tmp_path, name):
    """CLIP's projection would be zero, and all embeddings with it."""
    write(tmp_path / "c", drawn(clip_shapes()))
    with pytest.raises(UserError, match="c has Scenic's names and belongs to another family"):
        load_checkpoint(
            tmp_path / "c", DualEncoderConfig(VARIANTS[name].architecture.image), "image"
        )
