"""Detectors: which tokens of an image are its local descriptors.

The detector of AMES (Suma et al., 2024) and ELViS is that of HOW (Tolias et al., 2020) with an
attention of two layers: a dense layer and a batch norm give a map y; the attention of a token is
softplus(w relu(y) + b), and the L2-normalised y are descriptors of their own.
"""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from ilias_jax.files import sha256
from ilias_jax.model import Parameters
from ilias_jax.rerank.weights import check_weights, read_weights

_EPSILON = 1e-5  # of the batch norm


@dataclasses.dataclass(frozen=True, eq=False)
class Detector:
    """A detector of tokens of D channels.

    Attributes:
        parameters: kernel [D, D] and bias [D] of the first layer, its batch norm folded in, and
            attention [D] and offset [] of the second.
        sha256: of its file.
    """

    parameters: Mapping[str, np.ndarray]
    sha256: str

    def __call__(self, parameters: Parameters, tokens: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Applies parameters to tokens [B, T, D] float32.

        Returns:
            The normalised map [B, T, D] and the attention [B, T], both float32.
        """
        precision = jax.lax.Precision.HIGHEST
        y = jnp.matmul(tokens, parameters["kernel"], precision=precision) + parameters["bias"]
        norm = jnp.linalg.norm(y, axis=-1, keepdims=True)
        logits = jnp.matmul(jax.nn.relu(y), parameters["attention"], precision=precision)
        return y / jnp.maximum(norm, 1e-15), jax.nn.softplus(logits + parameters["offset"])


def read_detector(path: str, dim: int) -> Detector:
    """Reads a detector of tokens of `dim` channels from its checkpoint.

    Raises:
        UserError: the file is missing or damaged, or holds another detector.
    """
    norm = {f"bn.{name}": (dim,) for name in ("weight", "bias", "running_mean", "running_var")}
    shapes = {"conv1.weight": (dim, dim, 1, 1), "conv1.bias": (dim,), **norm}
    shapes |= {"conv2.weight": (1, dim, 1, 1), "conv2.bias": (1,)}
    place, optional = f"rerank.detector: {path}", ("bn.num_batches_tracked",)
    found = check_weights(read_weights(path), shapes, place, optional)
    double = {name: array.astype(np.float64) for name, array in found.items()}
    scale = double["bn.weight"] / np.sqrt(double["bn.running_var"] + _EPSILON)
    bias = (double["conv1.bias"] - double["bn.running_mean"]) * scale + double["bn.bias"]
    parameters = {
        "kernel": double["conv1.weight"][:, :, 0, 0].T * scale,
        "bias": bias,
        "attention": double["conv2.weight"][0, :, 0, 0],
        "offset": double["conv2.bias"][0],
    }
    rounded = {name: np.asarray(array, np.float32) for name, array in parameters.items()}
    return Detector(rounded, sha256(path))


def strongest(
    values: jax.Array, weights: jax.Array, grid: jax.Array, count: int
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """The tokens of largest weight of each image; of equal ones the first.

    Args:
        values: [B, T, D] in row-major order of the image's own grid.
        weights: [B, T] float32.
        grid: [B, 2] int32 rows and columns; tokens beyond rows x columns are padding, and may be
            anything.
        count: n, at most so many of an image.

    Returns:
        values [B, n, D] by falling weight, locations [B, n, 2] float32 (row and column of a token's
        centre as shares of the image), weights [B, n], and counts [B] int32 of the real ones; the
        rest is 0.
    """
    length = grid[:, 0] * grid[:, 1]
    weights = jnp.where(_first(weights.shape[1], length), weights, -jnp.inf)
    missing = max(count - weights.shape[1], 0)
    weights = jnp.pad(weights, ((0, 0), (0, missing)), constant_values=-jnp.inf)
    weights, tokens = jax.lax.top_k(weights, count)  # of equal ones the first
    counts = jnp.minimum(length, count)
    real = _first(count, counts)
    values = jnp.take_along_axis(values, tokens[:, :, None], axis=1)
    centres = jnp.stack(jnp.divmod(tokens, grid[:, 1:]), axis=-1).astype(jnp.float32) + 0.5
    locations = centres / grid[:, None, :].astype(jnp.float32)
    values, locations = (jnp.where(real[:, :, None], x, 0) for x in (values, locations))
    return values, locations, jnp.where(real, weights, 0), counts


def _first(count: int, length: jax.Array) -> jax.Array:
    """[B, count] bool, True for the first length [B] of each row."""
    return jnp.arange(count, dtype=jnp.int32)[None, :] < length[:, None]
