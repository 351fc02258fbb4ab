import json
import re

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from etils import epath

from ilias_jax.errors import UserError
from ilias_jax.towers.tensor_file import read_tensors

TENSORS = {
    "matrix": np.arange(6, dtype=np.float32).reshape(2, 3),
    "half": np.asarray([1.5, -2.0], np.float16),
    "brain": np.asarray([[1.5], [-2.0]], ml_dtypes.bfloat16),
    "number": np.asarray(3.0, np.float32),
    "double": np.linspace(0, 1, 5),
    "nothing": np.zeros((0, 4), np.float32),
    "num_batches_tracked": np.asarray(2**40, np.int64),
    "mask": np.asarray([[True], [False]]),
    **{f"int{bits}": np.asarray([-3, 5], f"int{bits}") for bits in (8, 16, 32)},
    **{f"uint{bits}": np.asarray([3, 250], f"uint{bits}") for bits in (8, 16, 32, 64)},
}


def write(path, content: bytes) -> epath.Path:
    path.write_bytes(content)
    return epath.Path(path)


def written(tensors: dict[str, np.ndarray] = TENSORS) -> bytes:
    return safetensors.numpy.save(tensors, {"format": "pt"})


def with_header(header: object, data: bytes = b"") -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def test_a_file_of_the_safetensors_package_is_read(tmp_path):
    found = read_tensors(write(tmp_path / "x.safetensors", written()))
    assert found.keys() == TENSORS.keys()
    for key, value in TENSORS.items():
        assert (found[key].dtype, found[key].shape) == (value.dtype, value.shape)
        np.testing.assert_array_equal(found[key], value)


def test_arrays_are_views_of_the_file(tmp_path):
    """A model of gigabytes is not in memory twice."""
    found = read_tensors(write(tmp_path / "x.safetensors", written()))
    base = found["matrix"]
    while base.base is not None and not isinstance(base, np.memmap):
        base = base.base
    assert isinstance(base, np.memmap)
    assert not found["matrix"].flags.writeable


ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
BAD = {
    "empty": b"",
    "text": b"<html>404 Not Found</html>",
    "cut in the header": written()[:40],
    "cut in the data": written()[:-1],
    "no JSON": with_header({})[:8] + b"{}"[::-1],
    "no object": with_header([1, 2]),
    "complex numbers": with_header({"a": {**ENTRY, "dtype": "C64"}}, bytes(16)),
    "integers of another size": with_header({"a": {**ENTRY, "dtype": "I64"}}, bytes(8)),
    "another size": with_header({"a": {**ENTRY, "shape": [3]}}, bytes(8)),
    "beyond the end": with_header({"a": {**ENTRY, "data_offsets": [8, 16]}}, bytes(8)),
    "before the start": with_header({"a": {**ENTRY, "data_offsets": [-8, 0]}}, bytes(8)),
    "no offsets": with_header({"a": {"dtype": "F32", "shape": [2]}}, bytes(8)),
    "no entry": with_header({"a": 3}, bytes(8)),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_file_that_is_none_is_named(tmp_path, kind):
    path = write(tmp_path / "bad.safetensors", BAD[kind])
    with pytest.raises(UserError, match=re.escape(str(path)) + " is no safetensors checkpoint"):
        read_tensors(path)
