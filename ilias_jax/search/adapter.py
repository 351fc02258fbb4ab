"""The linear adapter of ILIAS: one affine map and an L2 norm, for image queries and database alike.

It is kept as safetensors with the names of the official PyTorch layers, so that a torch module
loads one of ours; official `.pth` files are read as they are.
"""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from etils import epath

from ilias_jax import files
from ilias_jax.errors import UserError
from ilias_jax.models.checkpoints.torch_format import read_tensors

WEIGHT, BIAS = "layer.weight", "layer.bias"
_FORMAT = "ilias-jax adapter 1"
_KEY = "ilias_jax"  # of the metadata, as in embedding files
_BLOCK = 4096  # rows that the device takes at a time
_TORCH_SUFFIXES = (".pth", ".pt")
_MIN_NORM = 1e-12  # torch.nn.functional.normalize divides by no less


def normalize(rows: jax.Array) -> jax.Array:
    """Rows [B, d] divided by their L2 norm; a row of zeros stays, and has a gradient."""
    squares = jnp.sum(rows * rows, axis=1, keepdims=True)
    return rows / jnp.sqrt(jnp.maximum(squares, _MIN_NORM**2))


@jax.jit
def adapt(weight: jax.Array, bias: jax.Array, rows: jax.Array) -> jax.Array:
    """Rows [B, D] of any float type mapped by weight [d, D] and bias [d], as unit rows [B, d]."""
    product = jnp.einsum(
        "bD,dD->bd", rows.astype(jnp.float32), weight, precision=jax.lax.Precision.HIGHEST
    )
    return normalize(product + bias)


@dataclasses.dataclass(frozen=True, eq=False)
class Adapter:
    """A linear layer, weight [d, D] and bias [d] float32, finite; and how it was made."""

    weight: np.ndarray
    bias: np.ndarray
    fingerprint: Mapping[str, object] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.weight.ndim != 2 or self.bias.shape != self.weight.shape[:1]:
            raise ValueError(
                f"weight has shape {self.weight.shape} and bias {self.bias.shape}, "
                "not [d, D] and [d]"
            )
        if 0 in self.weight.shape:
            raise ValueError(f"weight has shape {self.weight.shape}: no channels")
        for name, array in ((WEIGHT, self.weight), (BIAS, self.bias)):
            if not np.isfinite(array).all():
                raise ValueError(f"{name} holds values that are not finite")

    @property
    def dim(self) -> int:
        """d, channels of the output."""
        return self.weight.shape[0]

    @property
    def input_dim(self) -> int:
        """D, channels of the input."""
        return self.weight.shape[1]

    @functools.cached_property
    def _on_device(self) -> tuple[jax.Array, jax.Array]:
        return jax.device_put((self.weight, self.bias))

    def apply(self, rows: np.ndarray) -> np.ndarray:
        """Adapts rows [N, D] float16 or float32 to [N, d] float32, L2-normalised.

        They go to the default device in blocks of one size, so that it compiles once. A row's value
        does not depend on the rows beside it. Rows with another D are a UserError.
        """
        if len(rows) and rows.shape[1] != self.input_dim:
            raise UserError(
                f"the adapter takes embeddings of {self.input_dim} channels, these have "
                f"{rows.shape[1]}; it belongs to another model"
            )
        result = np.empty((len(rows), self.dim), np.float32)
        for start in range(0, len(rows), _BLOCK):
            part = rows[start : start + _BLOCK]
            block = np.zeros((_BLOCK, self.input_dim), rows.dtype)
            block[: len(part)] = part
            adapted = jax.device_get(adapt(*self._on_device, jax.device_put(block)))
            result[start : start + len(part)] = adapted[: len(part)]
        return result

    def digest(self) -> str:
        """Hexadecimal sha256 of weight and bias, whatever file they came from."""
        return hashlib.sha256(self.weight.tobytes() + self.bias.tobytes()).hexdigest()

    def save(self, path: epath.PathLike) -> None:
        """Writes safetensors, whole or not at all; the same adapter gives the same bytes."""
        header = {"format": _FORMAT, "fingerprint": self.fingerprint}
        text = json.dumps(header, sort_keys=True, allow_nan=False)
        layers = ((WEIGHT, self.weight), (BIAS, self.bias))
        tensors = {name: np.ascontiguousarray(array) for name, array in layers}
        files.write_bytes(epath.Path(path), safetensors.numpy.save(tensors, {_KEY: text}))


def read_adapter(path: epath.PathLike) -> Adapter:
    """Reads an adapter: `.pth` of the official toolkit, or `.safetensors`.

    Raises:
        UserError: there is no such file, it is of another kind, damaged or hostile, or it does not
            hold `layer.weight` [d, D] and `layer.bias` [d] alone.
    """
    path = epath.Path(path)
    if path.suffix in _TORCH_SUFFIXES:
        tensors = read_tensors(path)
        fingerprint: Mapping[str, object] = {"file": path.name, "sha256": files.sha256(path)}
    elif path.suffix == ".safetensors":
        tensors, fingerprint = _read_safetensors(path)
    else:
        raise UserError(f"{path} is no adapter: its name must end in .safetensors, .pth or .pt")
    if set(tensors) != {WEIGHT, BIAS}:
        found = ", ".join(sorted(tensors)[:4]) or "nothing"
        raise UserError(f"{path} holds {found}; an adapter has {WEIGHT} and {BIAS} alone")
    try:
        weight, bias = (tensors[name].astype(np.float32) for name in (WEIGHT, BIAS))
        return Adapter(weight, bias, fingerprint)
    except ValueError as error:
        raise UserError(f"{path} is no adapter: {error}") from error


def _read_safetensors(path: epath.Path) -> tuple[dict[str, np.ndarray], Mapping[str, object]]:
    """The tensors, and how they were made as far as the file says."""
    data = files.read_bytes(path)
    try:
        tensors = safetensors.numpy.load(data)
        length = int.from_bytes(data[:8], "little")
        metadata = json.loads(data[8 : 8 + length]).get("__metadata__", {})
        ours = json.loads(metadata[_KEY]) if _KEY in metadata else {"fingerprint": {}}
        return tensors, ours["fingerprint"]
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{path} is damaged or of another kind: {error}") from error
