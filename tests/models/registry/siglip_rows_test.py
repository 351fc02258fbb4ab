import dataclasses
import json
import pathlib
import re

import pytest

from ilias_jax.models.dual_encoder import DualEncoderConfig
from ilias_jax.models.registry.registry import VARIANTS
from ilias_jax.models.registry.siglip import C4, GEMMA, MC4, SIGLIP_ROWS

PUBLISHED = {name: row for name, row in SIGLIP_ROWS.items() if not row.bundled}
LAYOUTS = json.loads(
    (pathlib.Path(__file__).parents[2] / "data" / "siglip_layouts.json").read_text()
)
NAME = re.compile(r"(naflex)?vit_(\w+?)_patch(\d+)_siglip(?:_(\d+))?\.(v2_)?webli(_i18n)?")
WIDTH = {  # width, depth, MLP, heads
    "base": (768, 12, 3072, 12),
    "large": (1024, 24, 4096, 16),
    "so400m": (1152, 27, 4304, 16),
    "giantopt": (1536, 40, 6144, 16),
}
SHORT = {"base": "b", "large": "l", "so400m": "so400m", "giantopt": "g-opt"}
HUB = {"base": "B", "large": "L", "so400m": "SO400M", "giantopt": "gopt"}


def official_test_resolution(train_resolution: int) -> int:
    """The published rule from training resolution to test resolution."""
    for low, high, test in ((224, 288, 384), (299, 384, 512), (512, 512, 724)):
        if low <= train_resolution <= high:
            return test
    raise ValueError(train_resolution)


def sizes(config: DualEncoderConfig) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return tuple(dataclasses.astuple(tower.size) for tower in (config.image, config.text))


def test_the_family_is_all_there():
    first = {f"vit_base_patch16_siglip_{side}.webli" for side in (224, 256, 384, 512)}
    first |= {f"vit_large_patch16_siglip_{side}.webli" for side in (256, 384)}
    first |= {f"vit_so400m_patch14_siglip_{side}.webli" for side in (224, 384)}
    first |= {f"vit_{size}_patch16_siglip_256.webli_i18n" for size in ("base", "so400m")}
    second = {"vit_base_patch32_siglip_256.v2_webli"}
    for size, sides in (
        ("base_patch16", (224, 256, 384, 512)),
        ("large_patch16", (256, 384, 512)),
        ("so400m_patch14", (224, 378)),
        ("so400m_patch16", (256, 384, 512)),
        ("giantopt_patch16", (256, 384)),
    ):
        second |= {f"vit_{size}_siglip_{side}.v2_webli" for side in sides}
    naflex = {f"naflexvit_{size}_patch16_siglip.v2_webli" for size in ("base", "so400m")}
    assert first | second | naflex == PUBLISHED.keys()


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_row_agrees_with_its_name(name):
    naflex, size, patch, side, v2, i18n = NAME.fullmatch(name).groups()
    row, config = VARIANTS[name], VARIANTS[name].architecture
    assert row.train_resolution == int(side or 384)
    assert row.test_resolution == official_test_resolution(row.train_resolution)
    assert config.image.patch_size == int(patch)
    # At 384, a patch of 14 leaves six pixels over, which the convolution does not look at.
    assert config.image.native_grid == (16 if naflex else int(side) // int(patch))
    text = WIDTH["so400m" if size == "giantopt" else size]
    assert sizes(config) == (WIDTH[size], text)
    assert (config.image.position == "bilinear") == bool(naflex)
    assert row.vocabulary is (GEMMA if v2 else MC4 if i18n else C4)
    assert config.text.vocab_size == row.vocabulary.size
    assert config.image.block.activation == config.text.block.activation == "gelu_tanh"


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_row_agrees_with_timm_and_open_clip(name):
    """What these libraries themselves said, by tests/reference/make_layout_values.py."""
    row, layout = VARIANTS[name], LAYOUTS[name]
    assert row.reference[0] == layout["timm"]["activation"]
    assert row.train_resolution == layout["timm"]["input_size"]
    assert row.licence.lower() == layout["timm"]["licence"]
    assert f"huggingface.co/{layout['timm']['hub']}/" in row.files["timm"].url
    text = layout["open_clip"]
    assert (text is None) == name.startswith("naflex")
    if text is not None:
        assert row.reference[1] == text["activation"]
        assert row.architecture.text.length == text["context_length"]
        assert row.architecture.text.vocab_size == text["vocab_size"]
        assert text["trunk"] == name.partition(".")[0]
        assert text["clean"] == "canonicalize"


@pytest.mark.parametrize("name", PUBLISHED)
def test_files_have_the_published_names(name):
    naflex, size, patch, side, v2, i18n = NAME.fullmatch(name).groups()
    files = {weights: file.url for weights, file in VARIANTS[name].files.items()}
    base = "https://storage.googleapis.com/big_vision/"
    short = SHORT[size] + ("" if size == "so400m" and not v2 and not i18n else patch)
    if v2:
        resolution = "naflex" if naflex else {"378": "384"}.get(side, side)
        assert files["big_vision"] == f"{base}siglip2/siglip2_{short}_{resolution}.npz"
    else:
        short = short.replace("so400m16", "so400m_16")
        pattern = rf"{base}siglip/webli_{'i18n' if i18n else 'en'}_{short}_{side}_\d{{8}}\.npz"
        assert re.fullmatch(pattern, files["big_vision"])
    assert files["timm"] == f"https://huggingface.co/timm/{name}/resolve/main/model.safetensors"
    if not naflex:
        tag = "" if side == "224" else f"-{side}"
        model = f"ViT-{HUB[size]}-{patch}-SigLIP{'2' if v2 else ''}{'-i18n' if i18n else ''}{tag}"
        where = f"https://huggingface.co/timm/{model}/resolve/main/open_clip_model.safetensors"
        assert files["open_clip"] == where


def test_no_two_rows_share_a_file():
    urls = [file.url for row in VARIANTS.values() for file in row.files.values()]
    assert len(set(urls)) == len(urls)


def test_vocabularies():
    """Sizes, padding and files as published; padding is the EOS but for Gemma."""
    found = [(v.size, v.pad_id, v.extra_pieces, v.file.url) for v in (C4, MC4, GEMMA)]
    t5 = "https://storage.googleapis.com/t5-data/vocabs"
    assert found == [
        (32_000, 1, 0, f"{t5}/cc_en.32000/sentencepiece.model"),
        (250_000, 1, 100, f"{t5}/mc4.250000.100extra/sentencepiece.model"),
        (256_000, 0, 0, "https://storage.googleapis.com/big_vision/gemma_tokenizer.model"),
    ]


def test_only_the_bundled_model_is_named_by_paths():
    bundled = [name for name, row in VARIANTS.items() if row.bundled]
    assert bundled == ["tiny"]
    row = VARIANTS["tiny"]
    image = row.architecture.image
    assert list(row.files) == ["big_vision"]
    assert "://" not in row.files["big_vision"].url + row.vocabulary.file.url
    assert image.native_grid * image.patch_size == row.train_resolution


@pytest.mark.parametrize(
    ("name", "choice", "image", "text"),
    [
        ("vit_base_patch16_siglip_384.webli", "reference", "gelu_exact", "gelu_exact"),
        ("vit_base_patch16_siglip_384.webli", "native", "gelu_tanh", "gelu_tanh"),
        ("vit_base_patch16_siglip_384.v2_webli", "reference", "gelu_exact", "gelu_tanh"),
        ("vit_large_patch16_siglip_512.v2_webli", "reference", "gelu_tanh", "gelu_tanh"),
        ("vit_so400m_patch16_siglip_256.webli_i18n", "reference", "gelu_tanh", "gelu_exact"),
        ("vit_base_patch16_siglip_384.v2_webli", "gelu_exact", "gelu_exact", "gelu_exact"),
        ("vit_base_patch16_siglip_384.webli", "gelu_tanh", "gelu_tanh", "gelu_tanh"),
        ("tiny", "reference", "gelu_tanh", "gelu_tanh"),
    ],
)
def test_a_choice_of_activations_is_resolved_by_tower(name, choice, image, text):
    config = VARIANTS[name].architecture_with(choice)
    assert (config.image.block.activation, config.text.block.activation) == (image, text)
