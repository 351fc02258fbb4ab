"""The identity of weights: what tells one model's embeddings from another's."""

import hashlib

import jax
import numpy as np
from etils import epath

from ilias_jax.errors import UserError
from ilias_jax.model import Parameters
from ilias_jax.towers.load import sha256


def file_sha256(path: epath.PathLike) -> str:
    """Hexadecimal sha256 of a checkpoint file, for a model's fingerprint."""
    return sha256(epath.Path(path))


def parameters_sha256(parameters: Parameters) -> str:
    """Hexadecimal sha256 of all arrays of a parameter tree, for a model's fingerprint.

    Order, dtypes, shapes and values are hashed, and no names: libraries rename those, and that must
    not embed a database again. About a second for a gigabyte.

    Args:
        parameters: a pytree of arrays, numpy or jax, or of typed random keys.

    Raises:
        UserError: it holds no array at all, so the hash would be that of any such model.
    """
    leaves = jax.tree.leaves(parameters)
    if not leaves:
        raise UserError(
            "the parameters hold no arrays, so they identify no model; weights that a function "
            "closes over are not seen: put them into Model.parameters"
        )
    digest = hashlib.sha256()
    for leaf in leaves:
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        value = np.asarray(jax.device_get(leaf))
        digest.update(f"{value.dtype.name}{value.shape}".encode())
        digest.update(np.ascontiguousarray(value).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
