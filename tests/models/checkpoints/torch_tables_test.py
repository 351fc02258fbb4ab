"""Rows of the table that are no SigLIP, against what their references say of themselves."""

import dataclasses
import functools
import json
import re

import graph_towers as towers
import graph_weights
import ml_dtypes
import numpy as np
import pytest
from cnn_cases import CNNS
from graph_cases import GRAPHS
from torch_written import to_torch

from ilias_jax.errors import UserError
from ilias_jax.metrics.published import read_published
from ilias_jax.models.checkpoints import torch_names
from ilias_jax.models.checkpoints.torch_names import from_torch
from ilias_jax.models.dual_encoder import DualEncoderConfig
from ilias_jax.models.parameters import count_parameters, parameter_shapes
from ilias_jax.models.registry.clip import CLIP_ROWS
from ilias_jax.models.registry.cnn import CNN_ROWS
from ilias_jax.models.registry.registry import VARIANTS
from ilias_jax.models.registry.siglip import SIGLIP_ROWS
from ilias_jax.models.registry.vit import VIT_ROWS

FULL = [name for name, case in GRAPHS.items() if not case.reduced]
# Layers of the references whose epsilon is another one than that of the blocks.
OTHER = {"feature.1": 2e-5, "feature.3": 2e-5, "model.layer_norm": 1e-5, "last_layer.0": 1e-5}


def layout(name: str) -> dict[str, tuple[int, ...]]:
    stored = json.loads(towers.stored(name)["layout"].tobytes())
    return {key: tuple(shape) for key, shape in stored.items()}


@functools.cache
def drawn(name: str) -> dict[str, np.ndarray]:
    return graph_weights.draw(layout(name))


def small(name: str) -> tuple[DualEncoderConfig, dict[str, np.ndarray]]:
    """A reduced case's architecture and drawn weights under the reference's names."""
    case = GRAPHS[name]
    return towers.architecture(case, case.activations[0]), dict(drawn(name))


def tower(config: DualEncoderConfig, name: str) -> object:
    return config.image if GRAPHS[name].modality == "image" else config.text


@pytest.mark.parametrize("name", FULL)
def test_norms_have_the_epsilon_of_the_reference(name):
    """Where a norm sees a variance of one, outputs hardly tell 1e-5 from 1e-6."""
    row = VARIANTS[GRAPHS[name].row].architecture
    own = tower(row, name).block.norm_epsilon
    epsilons = json.loads(towers.stored(name)["epsilons"].tobytes())
    assert epsilons
    for module, epsilon in epsilons.items():
        assert epsilon == OTHER.get(module, own) or module.startswith("gem"), module


@pytest.mark.parametrize("name", FULL)
def test_rows_that_share_a_network_differ_in_nothing_else(name):
    """But in weights, native grid, rotary reference, colours, activation and test size."""

    def network(row: str) -> object:
        own = tower(VARIANTS[row].architecture, name)
        own = dataclasses.replace(own, block=dataclasses.replace(own.block, activation="silu"))
        if GRAPHS[name].modality == "text":
            return own
        rope = own.rope and dataclasses.replace(own.rope, reference=0)
        return dataclasses.replace(own, native_grid=1, rope=rope)

    case = GRAPHS[name]
    assert {str(network(row)) for row in (case.row, *case.shared)} == {str(network(case.row))}


def test_every_row_has_a_network_that_was_compared():
    for modality in ("image", "text"):
        compared = {
            row
            for case in GRAPHS.values()
            if case.modality == modality
            for row in (case.row, *case.shared)
        }
        cnns = [case for case in CNNS.values() if not case.reduced and modality == "image"]
        compared |= {row for case in cnns for row in (case.row, *case.shared)}
        rows = {**CLIP_ROWS, **VIT_ROWS, **CNN_ROWS}
        own = {row for row, v in rows.items() if getattr(v.architecture, modality) is not None}
        assert compared == own


@pytest.mark.parametrize("name", FULL)
def test_parameters_count_as_in_the_reference(name):
    """Without what a file holds beside them: masks, counters, the loss's temperature."""
    case = GRAPHS[name]
    beside = ("mask_token", "bias_mask", "num_batches_tracked", "gem.p", "logit_scale")
    expected = sum(
        int(np.prod(shape)) for key, shape in layout(name).items() if not key.endswith(beside)
    )
    image, text = count_parameters(VARIANTS[case.row].architecture)
    assert (image if case.modality == "image" else text) == expected


@pytest.mark.parametrize("name", ["hier_s16", "dinov3_b16", "eva02_clip_b16", "unicom_b16"])
def test_the_formula_counts_what_the_shapes_hold(name):
    config = towers.architecture(GRAPHS[name], GRAPHS[name].activations[0])
    shapes = parameter_shapes(config)
    assert sum(count_parameters(config)) == sum(int(np.prod(s)) for s in shapes.values())


def test_one_message_lists_every_difference():
    config, arrays = small("hier_s16_reduced")
    arrays["body.blocks.1.norm3.weight"] = arrays.pop("body.blocks.1.norm1.weight")
    arrays["body.pos_embed"] = arrays["body.pos_embed"][:, :100]
    arrays["extra"] = np.zeros(3, np.float32)
    del arrays["last_layer.1.bias"]
    with pytest.raises(UserError) as error:
        from_torch(arrays, config, "some.pth", "image")
    first, *rest = str(error.value).splitlines()
    assert first == "some.pth does not fit the model; 5 differences:"
    assert [line.strip() for line in rest] == [
        "unmapped key: body.blocks.1.norm3.weight",
        "unmapped key: extra",
        "wrong shape: body.pos_embed is (1, 100, 384), expected (1, 197, 384)",
        "unfilled parameter: blocks.1.norm1.weight of shape (384,)",
        "unfilled parameter: head.bias of shape (128,)",
    ]


def test_the_file_of_another_model_is_refused_with_all_that_differs():
    config, _ = small("hier_s16_reduced")
    _, other = small("dino_b16_reduced")
    with pytest.raises(UserError, match="some.pth does not fit the model; 32 differences"):
        from_torch(other, config, "some.pth", "image")


def test_what_trainings_wrap_around_a_tower_changes_nothing():
    config, arrays = small("dino_b16_reduced")
    expected = from_torch(arrays, config, "x", "image")
    beside = {"head.0.weight": 3, "head.1.running_mean": 3, "head.1.num_batches_tracked": 1}
    moco = {f"state_dict.module.base_encoder.{key}": value for key, value in arrays.items()}
    for key, size in beside.items():
        moco[f"state_dict.module.base_encoder.{key}"] = np.zeros(size, np.float32)
    for other in ("momentum_encoder.cls_token", "predictor.0.weight"):
        moco[f"state_dict.module.{other}"] = np.zeros(3, np.float32)
    moco["optimizer.state.0.mu"] = np.zeros(3, np.float32)
    unic = {
        f"model.module.encoder.{key.replace('blocks.', 'blocks.0.')}": value
        for key, value in arrays.items()
    }
    unic |= {
        "model.module.encoder.mask_token": np.zeros((1, 768), np.float32),
        "model.module.lp.heads.x.weight": np.zeros(3, np.float32),
    }
    for wrapped in (moco, unic):
        ours = from_torch(wrapped, config, "x", "image")
        assert ours.keys() == expected.keys()
        for path, value in ours.items():
            np.testing.assert_array_equal(value, expected[path])


def _under(prefix, arrays):
    return {f"{prefix}{key}": value for key, value in arrays.items()}


def _zeros(arrays):
    return {key: np.zeros_like(value) for key, value in arrays.items()}


TRAININGS = {  # prefix of the weights -> what lies beside them
    "_orig_mod.module.": lambda _: {},
    "state_dict.model.": lambda _: {"epoch": np.float32(3)},
    "model_state_dict.": lambda _: {"loss": np.float32(0.1)},
    "teacher.backbone.": lambda a: {
        **_under("student.module.backbone.", _zeros(a)),
        "teacher.dino_head.mlp.0.weight": np.zeros((3, 3), np.float32),
    },
    "model.teacher.backbone.": lambda a: _under("model.student.backbone.", _zeros(a)),
    "model_ema.backbone.": lambda a: {  # DINOv3: of its three means the one that is evaluated
        key: value
        for part in ("student", "teacher", "gram_teacher")
        for key, value in _under(f"{part}.backbone.", _zeros(a)).items()
    },
    "model.": lambda a: {  # an optimizer's moments by the names of the weights; MAE's decoder
        **{f"optimizer.state.{key}.exp_avg": value for key, value in _zeros(a).items()},
        **_under("model.decoder_", _zeros(a)),
        "model.mask_token": np.zeros((1, 1, 768), np.float32),
    },
    "state_dict_ema.": lambda a: _under("state_dict.", _zeros(a)),
    "model_ema.module.": lambda a: _under("model.", _zeros(a)),
    "": lambda _: {
        "input_resolution": np.int64(224),
        "rng_state": np.zeros(5056, np.uint8),
        "transformer.attn_mask": np.zeros((3, 3), np.float32),
        "position_ids": np.zeros((1, 9), np.float16),  # as after half(), which casts all
        "neck.num_batches_tracked": np.float16(9),
        "vocab_size": np.float16(49408),
        "blocks.0.attn.total_ops": np.zeros(1),
    },
}


@pytest.mark.parametrize("prefix", TRAININGS)
def test_the_set_that_a_training_evaluates_is_read(prefix, caplog):
    config, arrays = small("dino_b16_reduced")
    expected = from_torch(arrays, config, "x", "image")
    beside = TRAININGS[prefix](arrays)
    ours = from_torch(beside | _under(prefix, arrays), config, "x", "image")
    for path, value in ours.items():
        np.testing.assert_array_equal(value, expected[path])
    two_sets = any(re.search(r"(^|\.)blocks.0.norm1.weight$", key) for key in beside)
    assert (f"weights {prefix!r} are taken, not" in caplog.text) == two_sets


@pytest.mark.parametrize(
    "part", ["_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module"]
)
def test_what_is_wrapped_around_one_block_changes_nothing(part):
    config, arrays = small("dino_b16_reduced")
    inside = {key.replace("blocks.0.", f"blocks.0.{part}."): a for key, a in arrays.items()}
    ours = from_torch(_under(f"teacher.{part}.", inside), config, "x", "image")
    for path, value in from_torch(arrays, config, "x", "image").items():
        np.testing.assert_array_equal(ours[path], value)


@pytest.mark.parametrize("dtype", ["int8", "bool", "complex64", "S4", "V4", "M8[s]", "O", "e4m3"])
def test_what_is_no_float_is_named(dtype):
    config, arrays = small("dino_b16_reduced")
    dtype = ml_dtypes.float8_e4m3fn if dtype == "e4m3" else dtype
    arrays["cls_token"] = np.zeros((1, 1, 768), dtype)
    with pytest.raises(
        UserError, match=f"no floats: cls_token is {np.dtype(dtype)}".replace("[", ".")
    ):
        from_torch(arrays, config, "x", "image")


def test_a_message_is_short_whatever_the_names():
    config, arrays = small("dino_b16_reduced")
    arrays |= {f"blocks.0.{'n' * 10_000}{i}": np.zeros(1, np.float32) for i in range(2000)}
    with pytest.raises(UserError, match="2000 differences") as error:
        from_torch(arrays, config, "x", "image")
    assert len(str(error.value)) < 300_000 and str(error.value).endswith("\n  and 1,000 more")


def test_two_sets_of_which_none_is_a_mean_are_named():
    config, arrays = small("dino_b16_reduced")
    both = {**_under("first.", arrays), **_under("second.", arrays)}
    with pytest.raises(UserError, match="whose names begin with 'first.', 'second.'; save the one"):
        from_torch(both, config, "x", "image")


def test_the_classes_of_a_supervised_model_are_left_out():
    config, arrays = small("augreg_b16_reduced")
    plain = from_torch(arrays, config, "x", "image")
    arrays["head.weight"] = np.zeros((21_843, 768), np.float32)
    arrays["head.bias"] = np.zeros(21_843, np.float32)
    assert from_torch(arrays, config, "x", "image").keys() == plain.keys()


def test_other_spellings_are_read_and_two_at_once_are_not():
    config, arrays = small("dinov3_b16_reduced")
    expected = from_torch(arrays, config, "x", "image")
    timm = {key.replace("ls1.gamma", "gamma_1"): value for key, value in arrays.items()}
    timm["reg_token"] = timm.pop("storage_tokens")
    ours = from_torch(timm, config, "x", "image")
    np.testing.assert_array_equal(ours["image.registers"], expected["image.registers"])
    timm["storage_tokens"] = timm["reg_token"]
    with pytest.raises(UserError, match="the same twice: reg_token and storage_tokens"):
        from_torch(timm, config, "x", "image")


def test_masked_biases_are_zero():
    """DINOv3's keys have biases in the file and none in the network."""
    config, arrays = small("dinov3_b16_reduced")
    ours = from_torch(arrays, config, "x", "image")
    attention = "image.encoder.blocks.attention"
    assert np.abs(arrays["blocks.0.attn.qkv.bias"][768:1536]).min() < 0.2
    assert not ours[f"{attention}.key.bias"].any()
    assert np.abs(ours[f"{attention}.query.bias"]).mean() > 0.05


def test_a_text_tower_is_read_alone_from_a_file_of_both():
    """As the text tower of a model whose image tower comes from another file."""
    config, arrays = small("clip_b_text_reduced")
    expected = from_torch(arrays, config, "x", "text")
    both = dict(arrays)
    for key in ("visual.conv1.weight", "visual.trunk.blocks.0.norm1.weight", "visual.proj"):
        both[key] = np.zeros(3, np.float32)
    ours = from_torch(both, config, "x", "text")
    for path, value in ours.items():
        np.testing.assert_array_equal(value, expected[path])


def test_clips_own_names_give_what_timms_give():
    """open_clip's file has a projection without bias, timm's of the same tower one of zeros."""
    config, arrays = small("clip_b16_reduced")
    arrays["head.bias"] = np.zeros(512, np.float32)
    expected = from_torch(arrays, config, "x", "image")
    names = dataclasses.replace(torch_names.CLIP, text_prefix=None)
    own = dict(to_torch(expected, config, "image", names))
    assert own["visual.proj"].shape == (768, 512)
    np.testing.assert_array_equal(own["visual.proj"], arrays["head.weight"].T)
    np.testing.assert_array_equal(own["visual.class_embedding"], arrays["cls_token"][0, 0])
    np.testing.assert_array_equal(own["visual.positional_embedding"], arrays["pos_embed"][0])
    layer = "transformer.resblocks.1.attn.in_proj_weight"
    np.testing.assert_array_equal(own[f"visual.{layer}"], arrays["blocks.1.attn.qkv.weight"])
    ours = from_torch(own, config, "x", "image")
    for path, value in ours.items():
        np.testing.assert_array_equal(value, expected[path])


def test_the_published_rows_are_all_there():
    """64 of the published table and 16 newer ones with SigLIP's, 23 text towers."""
    rows = {**CLIP_ROWS, **VIT_ROWS, **CNN_ROWS}
    images = [name for name, row in rows.items() if row.architecture.image is not None]
    texts = [name for name, row in rows.items() if row.architecture.text is not None]
    siglip = [
        name
        for name in SIGLIP_ROWS
        if name.startswith(("vit_base_patch16", "vit_large_patch16"))
        and not name.endswith("i18n")
        and name.split("_siglip_")[1] not in ("224.v2_webli", "256.v2_webli")
    ]
    assert (len(images), len(siglip), len(texts)) == (69, 10, 13)
    assert {score.model for score in read_published().scores} <= VARIANTS.keys()


def test_a_file_of_another_family_is_refused_by_name():
    """CLIP's names beside a network without its norms, which no table can fill."""
    _, clip = small("clip_b16_reduced")
    names = dataclasses.replace(torch_names.CLIP, text_prefix=None)
    config = towers.architecture(GRAPHS["clip_b16_reduced"], "gelu_exact")
    ours = from_torch(clip, config, "x", "image")
    own = dict(to_torch(ours, config, "image", names))
    dinov2 = towers.architecture(GRAPHS["dinov2_b14_reduced"], "gelu_exact")
    with pytest.raises(UserError) as error:
        from_torch(own, dinov2, "clip.pth", "image")
    message = str(error.value)
    assert message.startswith("clip.pth has CLIP's names and belongs to another family of models")
    assert "unfilled: image.embedding.bias, image.encoder.blocks.scale1.factor" in message
    assert "unknown to this model: image.pre_norm.bias, image.pre_norm.scale" in message


def test_two_tensors_of_one_name_are_named():
    config, arrays = small("dino_b16_reduced")
    arrays["body.cls_token"] = arrays["cls_token"]
    with pytest.raises(UserError, match="the same twice: cls_token and body.cls_token"):
        from_torch(arrays, config, "x", "image")
