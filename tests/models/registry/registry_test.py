"""Which towers and files of a row a configuration can have, and what is said if it cannot."""

import dataclasses

import jax
import pytest

from ilias_jax.config import ModelConfig
from ilias_jax.errors import UserError
from ilias_jax.models.registry import registry
from ilias_jax.models.registry.entry import WantedFile
from ilias_jax.models.registry.registry import VARIANTS, resolve_row, specify

CLIP, EVA = "vit_base_patch16_clip_224.openai", "eva02_large_patch14_clip_336.merged2b"


def wanted_files(config: ModelConfig) -> list[WantedFile]:
    return registry.wanted_files(config, specify(config).variant)


def chosen(name: str, **changes: str) -> str:
    return wanted_files(ModelConfig(name=name, **changes))[0].published.url


@pytest.mark.parametrize("name", VARIANTS)
def test_every_row_says_what_it_needs(name):
    """Any of them runs, or says why not before a file is looked for."""
    row = VARIANTS[name]
    has_text = row.architecture.text is not None
    config = ModelConfig(name=name, towers=row.towers)
    if row.files:
        keys = [file.key for file in wanted_files(config)]
        assert keys[0] == "model.checkpoint"
        assert ("model.tokenizer" in keys) == has_text
        return
    with pytest.raises(UserError, match=f"{name} has no published file: "):
        wanted_files(config)


def test_the_usual_file_has_the_towers_that_are_asked_for():
    assert chosen(CLIP).endswith("open_clip_model.safetensors")
    assert chosen(CLIP, towers="image") == VARIANTS[CLIP].files["open_clip"].url
    assert chosen(CLIP, towers="image", weights="timm").endswith(
        f"{CLIP}/resolve/main/model.safetensors"
    )
    assert chosen("dino_vitb16", towers="image").endswith("dino_vitbase16_pretrain.pth")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "dino_vitb16"}, "model.towers='both': dino_vitb16 has no text tower; .*=image"),
        ({"name": CLIP, "weights": "big_vision"}, f"'big_vision': {CLIP} has 'open_clip', 'timm'"),
        ({"name": "cvnet_resnet50"}, "towers='both': cvnet_resnet50 has no text tower; .*=image"),
        (
            {"name": "dinov3_vitb16", "towers": "image"},
            "no published file: Meta sends an address to those who accept its licence",
        ),
        (
            {"name": "hier_dino_vits16_sop", "towers": "image", "weights": "timm"},
            "model.checkpoint: hier_dino_vits16_sop has no published file: its authors publish no",
        ),
        (
            {"name": CLIP, "towers": "image", "text_checkpoint": "t"},
            "model.text_checkpoint=t would have no effect with model.towers=image",
        ),
        (
            {"name": CLIP, "weights": "timm"},
            "'timm' is a file of the image tower alone, and .*=image",
        ),
        (
            {"name": CLIP, "text_cleaning": "lower"},
            "model.text_cleaning='lower' would have no effect: .* CLIP's tokenizer",
        ),
        (
            {"name": "hier_dino_vits16_sop", "towers": "image"},
            "model.checkpoint: hier_dino_vits16_sop has no published file: its authors publish no",
        ),
    ],
)
def test_what_a_model_has_not_is_said(changes, message):
    with pytest.raises(UserError, match=message):
        chosen(**changes)


def test_weights_on_request_come_from_a_file_of_the_users():
    config = ModelConfig("hier_dino_vits16_sop", checkpoint="mine.pth", towers="image")
    (file,) = wanted_files(config)
    assert (str(file.path), file.published) == ("mine.pth", None)
    assert file.problem().endswith("does not exist. Give the path of a file that does")


def test_timms_image_tower_goes_with_a_text_tower_of_another_published_file():
    image, text, _ = wanted_files(ModelConfig(name=EVA, weights="timm"))
    assert image.published == VARIANTS[EVA].files["timm"]
    assert text.published == VARIANTS[EVA].text_file


def test_timms_image_tower_goes_with_a_text_tower_of_the_users():
    image, text, _ = wanted_files(ModelConfig(name=CLIP, weights="timm", text_checkpoint="mine"))
    assert image.published == VARIANTS[CLIP].files["timm"]
    assert (text.key, str(text.path)) == ("model.text_checkpoint", "mine")


def test_the_published_pairing_has_the_text_tower_of_another_file():
    first, text, _ = wanted_files(ModelConfig(name=EVA))
    assert text.key == "model.text_checkpoint"
    assert "clip_336.merged2b_s6b" in first.published.url
    assert "clip_224.merged2b_s4b" in text.published.url
    own = wanted_files(ModelConfig(name=EVA, checkpoint="mine.safetensors"))
    assert [file.key for file in own] == ["model.checkpoint", "model.tokenizer"]
    both = wanted_files(ModelConfig(name=EVA, checkpoint="a", text_checkpoint="b"))
    assert [str(file.path) for file in both[:2]] == ["a", "b"]


def test_a_gelu_is_no_choice_for_a_model_without_one():
    row = VARIANTS["unicom_vit_base_patch16_224"]
    with pytest.raises(UserError, match="model.activation='gelu_tanh': this model has relu6"):
        row.architecture_with("gelu_tanh")
    mixed = VARIANTS[EVA].architecture_with("gelu_tanh")  # SwiGLU beside a text tower with a GELU
    assert (mixed.image.block.activation, mixed.text.block.activation) == ("silu", "gelu_tanh")


def test_a_resolved_model_is_all_that_later_steps_need(tmp_path):
    paths = [tmp_path / name for name in ("image", "text", "vocabulary")]
    for path in paths:
        path.write_bytes(b"")
    config = ModelConfig(
        EVA, *map(str, paths[:1]), text_checkpoint=str(paths[1]), tokenizer=str(paths[2])
    )
    resolved = resolve_row(config, max_scale=1.5)
    assert [str(path) for path in resolved.files.values()] == [str(path) for path in paths]
    assert resolved.architecture == VARIANTS[EVA].architecture
    how = resolved.preprocessing
    assert (how.resolution, how.patch_size, how.max_scale) == (512, 14, 1.5)
    assert (how.mean, how.std) == VARIANTS[EVA].normalization
    one = resolve_row(dataclasses.replace(config, towers="image", text_checkpoint=""))
    assert list(one.files) == ["checkpoint"] and one.architecture.text is None
    assert resolved.digests.keys() == resolved.files.keys()


def test_cudnn_is_refused_where_it_cannot_run():
    for choice in ("auto", "xla", "grouped"):
        resolve_row(ModelConfig("tiny", attention=choice))
    with pytest.raises(UserError, match="model.attention='cudnn' needs an NVIDIA GPU.*Use 'auto'"):
        resolve_row(ModelConfig("tiny", attention="cudnn", dtype="bfloat16"))


@pytest.mark.parametrize(
    ("platform", "dtype"), [("gpu", "float16"), ("tpu", "bfloat16"), ("cpu", "float32")]
)
def test_the_dtype_of_a_device_is_resolved_before_anything_is_named_by_it(
    platform, dtype, monkeypatch
):
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    assert resolve_row(ModelConfig("tiny", dtype="auto")).dtype == dtype
    assert resolve_row(ModelConfig("tiny", dtype="bfloat16")).dtype == "bfloat16"
