"""CLIP's text tower, beside what `graphs_test` compares with open_clip's outputs."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ilias_jax.models.dual_encoder import TextConfig, TextTower
from ilias_jax.models.layers import BlockConfig, TransformerSize

SIZE = TransformerSize(16, 2, 24, 2)
CONFIG = TextConfig(
    SIZE, 50, 8, length=9, block=BlockConfig("quick_gelu"), causal=True, head="matrix"
)
END = 49


def embed(config: TextConfig, tokens: np.ndarray) -> np.ndarray:
    """The vectors of a tower whose parameters are random, the same for every call."""
    module = nnx.eval_shape(lambda: TextTower(config, jnp.dtype("float32"), nnx.Rngs(0)))
    graph, state = nnx.split(module)
    rng = np.random.default_rng(0)
    values = jax.tree.map(
        lambda leaf: rng.normal(scale=0.5, size=leaf.shape).astype(np.float32), state
    )
    run = jax.jit(lambda state, tokens: nnx.merge(graph, state)(tokens))
    return np.asarray(run(values, jnp.asarray(tokens, jnp.int32)))


def test_what_follows_the_end_of_a_text_never_counts():
    tokens = np.asarray([[48, 3, 7, END, 0, 0, 0, 0, 0]])
    other = tokens.copy()
    other[0, 4:] = 11
    np.testing.assert_array_equal(embed(CONFIG, tokens), embed(CONFIG, other))
    bidirectional = dataclasses.replace(CONFIG, causal=False)
    difference = embed(bidirectional, tokens) - embed(bidirectional, other)
    assert np.abs(difference).max() > 1e-3


def test_the_end_is_where_it_first_stands():
    tokens = np.asarray([[48, 3, END, 5, END, 0, 0, 0, 0]])
    shorter = np.asarray([[48, 3, END, 0, 0, 0, 0, 0, 0]])
    np.testing.assert_allclose(embed(CONFIG, tokens), embed(CONFIG, shorter), atol=1e-6)


def test_a_tower_without_a_head_is_as_wide_as_its_embeddings():
    with pytest.raises(ValueError, match="width=16 must be that of the embeddings, 8"):
        dataclasses.replace(CONFIG, head="none")
