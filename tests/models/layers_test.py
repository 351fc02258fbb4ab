import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import siglip_oracle as oracle
from flax import nnx

from ilias_jax.models.layers import Block, BlockConfig, Encoder, Mlp, TransformerSize, layer_norm

SIZE = TransformerSize(width=32, depth=3, mlp_dim=48, num_heads=4)
FLOAT32 = jnp.dtype("float32")
TANH = BlockConfig("gelu_tanh")


def randomized(module: nnx.Module, seed: int = 0) -> dict[str, np.ndarray]:
    """Gives every parameter random values, norms and biases too; returns them by path."""
    rng = np.random.default_rng(seed)
    state = nnx.state(module, nnx.Param)
    leaves, _ = jax.tree_util.tree_flatten_with_path(nnx.to_pure_dict(state))
    values = {
        ".".join(entry.key for entry in path): (
            0.3 * rng.standard_normal(leaf.shape) + (path[-1].key == "scale")
        ).astype(np.float32)
        for path, leaf in leaves
    }
    tree = jax.tree_util.tree_unflatten(
        jax.tree_util.tree_structure(nnx.to_pure_dict(state)), list(values.values())
    )
    nnx.replace_by_pure_dict(state, tree)
    nnx.update(module, state)
    return values


def tokens(seed: int, batch: int = 2, length: int = 7) -> np.ndarray:
    shape = (batch, length, SIZE.width)
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@functools.cache
def block(activation: str) -> tuple[Block, dict[str, np.ndarray]]:
    module = nnx.eval_shape(lambda: Block(SIZE, BlockConfig(activation), FLOAT32, nnx.Rngs(0)))
    return module, randomized(module)


@pytest.mark.parametrize("choice", ["xla", "grouped"])
@pytest.mark.parametrize("activation", ["gelu_tanh", "gelu_exact"])
def test_a_block_equals_the_oracle(activation, choice):
    module, parameters = block(activation)
    module.set_attributes(choice=choice)
    x = tokens(1)
    ours = nnx.jit(lambda module, x: module(x, None))(module, x)
    for row, image in zip(ours, x, strict=True):
        expected = oracle.block(image.astype(np.float64), parameters, activation)
        np.testing.assert_allclose(row, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("choice", ["xla", "grouped"])
def test_masked_tokens_are_as_if_they_were_not_there(choice):
    module, parameters = block("gelu_tanh")
    module.set_attributes(choice=choice)
    x, real = tokens(1), [3, 6]
    for row, count in zip(x, real, strict=True):
        row[count:] = 1e6
    mask = np.arange(7)[None] < np.asarray(real)[:, None]
    ours = nnx.jit(lambda module, x, mask: module(x, mask))(module, x, mask)
    assert np.isfinite(ours).all()
    for row, image, count in zip(ours, x, real, strict=True):
        expected = oracle.block(image[:count].astype(np.float64), parameters, "gelu_tanh")
        np.testing.assert_allclose(row[:count], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("choice", ["xla", "grouped"])
def test_the_scan_over_layers_equals_a_loop(choice):
    encoder = nnx.eval_shape(lambda: Encoder(SIZE, TANH, FLOAT32, nnx.Rngs(0)))
    encoder.set_attributes(choice=choice)
    parameters, x, real = randomized(encoder), tokens(2), [5, 7]
    mask = np.arange(7)[None] < np.asarray(real)[:, None]
    ours = nnx.jit(lambda encoder, x, mask: encoder(x, mask))(encoder, x, mask)
    for row, image, count in zip(ours, x, real, strict=True):
        expected = oracle.encoder(image[:count].astype(np.float64), parameters, "gelu_tanh")
        np.testing.assert_allclose(row[:count], expected, atol=2e-5, rtol=1e-5)


def test_every_layer_starts_from_its_own_random_values():
    encoder = nnx.jit(lambda: Encoder(SIZE, TANH, FLOAT32, nnx.Rngs(0)))()
    kernels = np.asarray(encoder.blocks.mlp.up.kernel[...])
    assert kernels.shape == (SIZE.depth, SIZE.width, SIZE.mlp_dim)
    assert len({kernel.tobytes() for kernel in kernels}) == SIZE.depth


def test_layer_norm_keeps_its_precision_far_from_zero():
    """The one-pass variance E[x^2] - E[x]^2 loses all digits here."""
    norm = layer_norm(SIZE.width, TANH, FLOAT32, nnx.Rngs(0))
    x = tokens(4) + np.float32(4096)
    expected = oracle.layer_norm(x.astype(np.float64), {"scale": 1.0, "bias": 0.0})
    np.testing.assert_allclose(norm(x), expected, atol=2e-3)


def test_layer_norm_uses_big_visions_epsilon():
    norm = layer_norm(SIZE.width, TANH, FLOAT32, nnx.Rngs(0))
    x = 1e-3 * tokens(5)
    expected = oracle.layer_norm(x.astype(np.float64), {"scale": 1.0, "bias": 0.0})
    np.testing.assert_allclose(norm(x), expected, atol=1e-4)


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match="num_heads=5 does not divide width=32"):
        TransformerSize(width=32, depth=1, mlp_dim=64, num_heads=5)


@pytest.mark.parametrize(
    ("name", "formula"),
    [
        ("gelu_exact", lambda x: x * (1 + math.erf(x / math.sqrt(2))) / 2),
        (
            "gelu_tanh",
            lambda x: x / 2 * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
        ),
        ("quick_gelu", lambda x: x / (1 + math.exp(-1.702 * x))),
        ("relu6", lambda x: min(max(x, 0.0), 6.0)),
        ("silu", lambda x: x / (1 + math.exp(-x))),
    ],
)
def test_activations_are_their_formulas(name, formula):
    mlp = Mlp(TransformerSize(1, 1, 1, 1), BlockConfig(name), FLOAT32, nnx.Rngs(0))
    for dense in (mlp.up, mlp.down):  # of one channel, the identity
        dense.kernel[...], dense.bias[...] = jnp.ones((1, 1)), jnp.zeros(1)
    x = np.linspace(-4, 8, 49, dtype=np.float32)
    expected = [formula(value) for value in x.tolist()]
    np.testing.assert_allclose(mlp(x[:, None])[:, 0], expected, atol=2e-6)
