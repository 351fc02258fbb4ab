"""From the description of tensors in a file's pickle to arrays over the bytes of its storages."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from ilias_jax.errors import UserError
from ilias_jax.torch_files.nested import flatten
from ilias_jax.torch_files.unpickle import PickleError, StorageRef, TensorRef

_MAX_DIMENSIONS = 32
Buffer = bytes | memoryview


def check_tensors(found: Any, place: str) -> dict[str, TensorRef]:
    """The object of a file, if it is a flat dictionary of tensors.

    Raises:
        UserError: it is anything else.
    """
    if not isinstance(found, dict):
        raise UserError(f"{place} holds a {type(found).__name__}, not a dictionary of tensors")
    for name, value in found.items():
        if not isinstance(name, str) or not isinstance(value, TensorRef):
            raise UserError(
                f"{place}: {name!r} is a {type(value).__name__}, not a tensor; save the "
                "state_dict() of the module alone"
            )
    return found


def nested_tensors(found: Any, place: str) -> dict[str, TensorRef]:
    """The tensors in the dictionaries of a file, by their keys joined by ".".

    Raises:
        UserError: it holds no dictionary, or no tensor in one.
        ValueError: its dictionaries are too deep, or two tensors have one name.
    """
    if not isinstance(found, dict):
        raise UserError(f"{place} holds a {type(found).__name__}, not a dictionary of tensors")
    tensors = flatten(found, TensorRef, ".")
    if not tensors:
        raise UserError(
            f"{place} holds no tensor, only {', '.join(map(repr, [*found][:9])) or '{}'}"
        )
    return tensors


def num_bytes(storage: StorageRef) -> int:
    """Bytes of a storage."""
    return storage.num_elements * jnp.dtype(storage.dtype).itemsize


def native(data: Buffer, storage: StorageRef, byte_order: str) -> Buffer:
    """The bytes of a storage, little-endian as all machines that JAX runs on."""
    if byte_order == "little":
        return data
    size = jnp.dtype(storage.dtype).itemsize
    return np.frombuffer(data, f"u{size}").byteswap().tobytes()


def make_arrays(
    tensors: Mapping[str, TensorRef], storages: Mapping[StorageRef, Buffer]
) -> dict[str, np.ndarray]:
    """Read-only views of the storages as the tensors say.

    Raises:
        PickleError: a tensor reaches beyond its storage or has an impossible shape.
    """
    return {name: _array(name, it, storages[it.storage]) for name, it in tensors.items()}


def _array(name: str, tensor: TensorRef, data: Buffer) -> np.ndarray:
    """One view, after a check that it stays within its storage."""
    elements, reach = 1, tensor.offset + 1
    for size, stride in zip(tensor.shape, tensor.strides, strict=True):
        elements *= size
        reach += max(size - 1, 0) * stride
    available = tensor.storage.num_elements
    if elements and reach > available:
        raise PickleError(f"{name} reaches beyond its storage of {available} elements")
    # A small file could fill any memory.
    if elements > available:
        raise PickleError(f"{name} repeats its {available} elements to {elements:,}")
    if len(tensor.shape) > _MAX_DIMENSIONS:
        raise PickleError(f"{name} has {len(tensor.shape)} dimensions")
    dtype = jnp.dtype(tensor.storage.dtype)
    try:
        if not elements:
            return np.frombuffer(b"", dtype).reshape(tensor.shape)
        strides = [
            stride * dtype.itemsize if size > 1 else 0
            for size, stride in zip(tensor.shape, tensor.strides, strict=True)
        ]
        return np.ndarray(tensor.shape, dtype, data, tensor.offset * dtype.itemsize, strides)
    except (ValueError, OverflowError) as error:
        raise PickleError(f"{name} has an impossible shape: {error}") from error
