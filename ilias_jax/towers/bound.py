"""Towers as functions of their parameters, which a checkpoint gave."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ilias_jax.model import Parameters, TextFunction
from ilias_jax.towers.attention import Choice
from ilias_jax.towers.two_towers import TowersConfig, TwoTowers

_MATRICES = (".kernel", "text.embedding.embedding")


def bind(
    architecture: TowersConfig, dtype: str, parameters: Parameters, attention: Choice = "auto"
) -> TwoTowers:
    """The module around these parameters; allocates nothing, also while being traced.

    Args:
        architecture: of the towers.
        dtype: of the computation.
        parameters: path -> array, as `load_checkpoint` gives them.
        attention: which implementation; changes rounding alone.
    """
    module = nnx.eval_shape(lambda: TwoTowers(architecture, nnx.Rngs(0), jnp.dtype(dtype)))
    state = nnx.state(module, nnx.Param)
    nnx.replace_by_pure_dict(state, _nested(parameters))
    nnx.update(module, state)
    module.set_attributes(choice=attention)
    return module


def _nested(parameters: Mapping[str, jax.Array]) -> dict[str, Any]:
    """Paths joined by dots -> nested dictionaries."""
    tree: dict[str, Any] = {}
    for path, value in parameters.items():
        *parents, leaf = path.split(".")
        functools.reduce(lambda node, key: node.setdefault(key, {}), parents, tree)[leaf] = value
    return tree


def matmul_precision(dtype: str) -> str:
    """Of the matrix products in a computation of this dtype."""
    return "highest" if dtype == "float32" else "default"


def text_function(
    architecture: TowersConfig, dtype: str, attention: Choice = "auto"
) -> TextFunction:
    """(parameters, tokens [B, L] int32) -> [B, D] float32, unnormalised; arguments as `bind`."""

    def embed_texts(parameters: Parameters, tokens: jax.Array) -> jax.Array:
        with jax.default_matmul_precision(matmul_precision(dtype)):
            return bind(architecture, dtype, parameters, attention).text(tokens)

    return embed_texts


def stored(parameters: Mapping[str, np.ndarray], dtype: str) -> dict[str, np.ndarray]:
    """Matrices in the dtype that they are multiplied in: half the memory, and the same result.

    Norms, biases, positions and the probe are small, and partly added in float32.
    """
    return {
        path: value.astype(dtype) if path.endswith(_MATRICES) else value
        for path, value in parameters.items()
    }
