"""Arrays of a safetensors file as views of it: nothing is read before it is looked at.

The package `safetensors` reads a file's tensors into memory in its numpy form, and not all of its
versions know bfloat16 there; so the header, eight bytes of length and JSON, is read here.
"""

import json
import math
from typing import Any

import ml_dtypes
import numpy as np
from etils import epath

from ilias_jax.errors import UserError

_LENGTH_BYTES = 8
_DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    **{f"I{8 * size}": np.dtype(f"i{size}") for size in (1, 2, 4, 8)},
    **{f"U{8 * size}": np.dtype(f"u{size}") for size in (1, 2, 4, 8)},
    "BOOL": np.dtype(np.bool_),
}


def read_tensors(path: epath.Path) -> dict[str, np.ndarray]:
    """Name -> array of a safetensors file.

    Args:
        path: a local file is mapped into memory, one of a bucket is read.

    Raises:
        UserError: it is no safetensors file, is cut short or damaged, or holds numbers of a kind
            that no model has, such as complex ones.
    """
    content = _content(path)
    start = _LENGTH_BYTES + int.from_bytes(content[:_LENGTH_BYTES].tobytes(), "little")
    if len(content) < max(start, _LENGTH_BYTES + 2):
        raise UserError(f"{path} is no safetensors checkpoint, or only a part of one")
    try:
        header = json.loads(content[_LENGTH_BYTES:start].tobytes())
        header.pop("__metadata__", None)
        return {key: _view(content[start:], **entry) for key, entry in header.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"dtype {error}" if isinstance(error, KeyError) else error
        raise UserError(f"{path} is no safetensors checkpoint of this kind ({reason})") from error


def _content(path: epath.Path) -> np.ndarray:
    """The bytes of a file."""
    if "://" in str(path):
        return np.frombuffer(path.read_bytes(), np.uint8)
    if path.stat().length == 0:  # which cannot be mapped
        return np.empty(0, np.uint8)
    return np.memmap(path, np.uint8, mode="r")


def _view(data: np.ndarray, dtype: str, shape: list[int], data_offsets: list[int]) -> Any:
    """One tensor as a view.

    Raises:
        KeyError: the dtype is none of the table.
        ValueError: the tensor does not lie within the data.
    """
    kind = _DTYPES[dtype]
    first, end = data_offsets
    if not 0 <= first <= end <= len(data) or end - first != kind.itemsize * math.prod(shape):
        raise ValueError(f"a tensor of {dtype} {shape} at {data_offsets} of {len(data)} bytes")
    return data[first:end].view(kind).reshape(shape)
