"""Parameters of every row, counted three ways: by formula, by shape, and as published."""

import json
import math
import pathlib

import jax
import numpy as np
import pytest
from flax import nnx

from ilias_jax.models.dual_encoder import DualEncoder
from ilias_jax.models.layers import TransformerSize
from ilias_jax.models.parameters import count_parameters, parameter_shapes, parameters_of
from ilias_jax.models.registry.registry import VARIANTS
from ilias_jax.models.registry.siglip import SIGLIP_ROWS, siglip

LAYOUTS = json.loads(
    (pathlib.Path(__file__).parents[1] / "data" / "siglip_layouts.json").read_text()
)
PUBLISHED = [name for name, row in SIGLIP_ROWS.items() if not row.bundled]
# Numbers in both towers of the published checkpoints, counted on big_vision's own modules.
BIG_VISION = {
    "vit_base_patch16_siglip_224.webli": (92_884_224, 110_271_744, 203_155_970),
    "vit_base_patch16_siglip_256.webli": (92_930_304, 110_271_744, 203_202_050),
    "vit_base_patch16_siglip_384.webli": (93_176_064, 110_271_744, 203_447_810),
    "vit_base_patch16_siglip_512.webli": (93_520_128, 110_271_744, 203_791_874),
    "vit_large_patch16_siglip_256.webli": (315_956_224, 336_194_560, 652_150_786),
    "vit_large_patch16_siglip_384.webli": (316_283_904, 336_194_560, 652_478_466),
    "vit_base_patch16_siglip_384.v2_webli": (93_176_064, 282_303_744, 375_479_810),
    "vit_base_patch16_siglip_512.v2_webli": (93_520_128, 282_303_744, 375_823_874),
    "vit_large_patch16_siglip_384.v2_webli": (316_283_904, 565_570_560, 881_854_466),
    "vit_large_patch16_siglip_512.v2_webli": (316_742_656, 565_570_560, 882_313_218),
}
ODD = siglip(
    image=TransformerSize(24, 3, 40, 4),
    text=TransformerSize(16, 2, 56, 2),
    patch_size=3,
    native_grid=5,
    vocab_size=11,
    text_length=7,
)
WITHOUT_HEAD = siglip(
    TransformerSize(24, 1, 40, 4), TransformerSize(24, 2, 8, 2), 2, 3, 13, text_head=False
)
CONFIGS = {"odd": ODD, "without head": WITHOUT_HEAD} | {
    name: VARIANTS[name].architecture
    for name in (
        "tiny",
        "vit_so400m_patch16_siglip_256.webli_i18n",
        "vit_giantopt_patch16_siglip_384.v2_webli",
    )
}


@pytest.mark.parametrize("name", CONFIGS)
def test_the_formula_counts_what_the_shapes_hold(name):
    config = CONFIGS[name]
    sizes = {path: math.prod(shape) for path, shape in parameter_shapes(config).items()}
    image = sum(size for path, size in sizes.items() if path.startswith("image."))
    text = sum(size for path, size in sizes.items() if path.startswith("text."))
    assert count_parameters(config) == (image, text)
    assert sum(sizes.values()) == image + text + 2


@pytest.mark.parametrize("name", BIG_VISION)
def test_parameters_count_as_in_big_vision(name):
    image, text = count_parameters(VARIANTS[name].architecture)
    assert (image, text, image + text + 2) == BIG_VISION[name]


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_count_as_in_timm_and_open_clip(name):
    image, text = count_parameters(VARIANTS[name].architecture)
    layout = LAYOUTS[name]
    assert image == layout["timm"]["parameters"]
    if layout["open_clip"] is None:  # NaFlex; its text tower is that of the fixed resolution
        fixed = name.replace("naflexvit", "vit").replace("siglip.", "siglip_256.")
        layout = LAYOUTS[fixed]
    assert text == layout["open_clip"]["text_parameters"]
    assert image + text + 2 == layout["open_clip"]["parameters"]


def test_the_shapes_are_those_of_the_values():
    model = nnx.eval_shape(lambda: DualEncoder(ODD, nnx.Rngs(0)))
    state = nnx.state(model, nnx.Param)
    nnx.update(model, jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), state))
    values = parameters_of(model)
    assert {path: value.shape for path, value in values.items()} == parameter_shapes(ODD)
    assert all(isinstance(value, np.ndarray) for value in values.values())
    assert sum(value.size for value in jax.tree.leaves(values)) == sum(count_parameters(ODD)) + 2


def test_the_image_tower_alone_has_its_own_parameters():
    both, image = parameter_shapes(ODD), parameter_shapes(ODD, "image")
    assert image == {path: shape for path, shape in both.items() if path.startswith("image.")}
    assert len(image) < len(both)
