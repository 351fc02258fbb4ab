"""Operations by formula against those of the program that JAX traces."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from ilias_jax.models import parameters
from ilias_jax.models.dual_encoder import DualEncoderConfig
from ilias_jax.models.layers import BlockConfig, TransformerSize
from ilias_jax.models.load import tower_model
from ilias_jax.models.parameters import parameter_shapes
from ilias_jax.models.positions import Rope
from ilias_jax.models.registry.registry import VARIANTS
from ilias_jax.models.registry.siglip import siglip
from ilias_jax.models.tokenizers import Tokenizer
from ilias_jax.models.vit import Head, VitConfig

ODD = siglip(
    image=TransformerSize(24, 3, 40, 2),
    text=TransformerSize(16, 2, 56, 4),
    patch_size=4,
    native_grid=3,
    vocab_size=11,
    text_length=7,
)


def product_operations(jaxpr) -> int:
    """Operations of all matrix products, those in scans as often as they run."""
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            left, right = (variable.aval.shape for variable in equation.invars)
            (contracted, _), _ = equation.params["dimension_numbers"]
            result = equation.outvars[0].aval.shape
            total += 2 * int(np.prod(result)) * int(np.prod([left[axis] for axis in contracted]))
        times = equation.params.get("length", 1) if equation.primitive.name == "scan" else 1
        for value in equation.params.values():
            for inner in value if isinstance(value, tuple | list) else [value]:
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    total += times * product_operations(inner)
    return total


def traced(config: DualEncoderConfig, num_tokens: int) -> tuple[int, int]:
    """Operations of one image and of one text."""
    shapes = {
        path: jax.ShapeDtypeStruct(shape, np.float32)
        for path, shape in parameter_shapes(config).items()
    }
    tokenizer = Tokenizer(b"unused", config.text.length)
    side = config.image.patch_size * 8
    model = tower_model("odd", config, {}, tokenizer, side, "float32", {})
    pixels = jax.ShapeDtypeStruct((1, num_tokens, config.image.patch_size**2 * 3), np.float32)
    grid = jax.ShapeDtypeStruct((1, 2), np.int32)
    words = jax.ShapeDtypeStruct((1, config.text.length), np.int32)
    trace = functools.partial(jax.make_jaxpr, return_shape=False)
    return (
        product_operations(trace(model.embed_images)(shapes, pixels, grid).jaxpr),
        product_operations(trace(model.embed_texts)(shapes, words).jaxpr),
    )


ODD_CLIP = DualEncoderConfig(
    VitConfig(
        ODD.image.size,
        4,
        3,
        BlockConfig("silu", gated_mlp=True, biases="no_key"),
        num_registers=2,
        rope=Rope("eva", 3),
        head=Head(16),
    ),
    dataclasses.replace(ODD.text, embedding_dim=16, causal=True, head="matrix"),
)
FLATTENED = dataclasses.replace(
    ODD,
    image=dataclasses.replace(ODD.image, pool="flatten", head=Head(24), position="clamped"),
)


@pytest.mark.parametrize("config", [ODD_CLIP, FLATTENED], ids=["clip", "flattened"])
def test_other_families_are_counted_too(config):
    expected = parameters.image_flops(config.image, (40,)), parameters.text_flops(config.text)
    assert traced(config, 40) == expected


@pytest.mark.parametrize("num_tokens", [8, 40])
def test_the_formulas_count_the_products_of_the_program(num_tokens):
    assert traced(ODD, num_tokens) == (
        parameters.image_flops(ODD.image, (num_tokens,)),
        parameters.text_flops(ODD.text),
    )


def test_a_large_model_takes_what_its_recipe_says():
    config = VARIANTS["vit_large_patch16_siglip_384.webli"].architecture.image
    # configs/siglip_l384.py: about 0.5 TFLOP an image.
    assert parameters.image_flops(config, (768,)) == pytest.approx(0.52e12, rel=0.02)
    # One layer by hand: 24 D^2 T + 4 T^2 D at T = 768, D = 1024.
    layer = 24 * 1024**2 * 768 + 4 * 768**2 * 1024
    assert parameters._layer_flops(config.size, config.block, 768) == layer
