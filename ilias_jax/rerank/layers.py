"""Layers that re-rankers of local descriptors share: products of a dtype, all else in float32."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from ilias_jax.config import RerankConfig
from ilias_jax.models.dual_encoder import matmul_precision
from ilias_jax.models.registry.registry import computed_dtype

Parameters = Mapping[str, Any]
DIM = 128  # channels behind the remapping, of every published checkpoint
_EPSILON = 1e-5


@dataclasses.dataclass(frozen=True)
class Products:
    """Matrix products of a dtype, accumulated in float32."""

    dtype: str

    @classmethod
    def configured(cls, config: RerankConfig) -> "Products":
        """Those of `rerank.dtype` on this machine."""
        return cls(computed_dtype(config.dtype))

    def __call__(self, subscripts: str, *operands: jax.Array) -> jax.Array:
        """`jnp.einsum` of two arrays, float32."""
        return jnp.einsum(
            subscripts,
            *(operand.astype(self.dtype) for operand in operands),
            precision=matmul_precision(self.dtype),
            preferred_element_type=jnp.float32,
        )

    def dense(self, x: jax.Array, parameters: Parameters, name: str) -> jax.Array:
        """A dense layer as PyTorch names it: `name.weight` [out, in] and `name.bias`."""
        product = self("...i,oi->...o", x, parameters[f"{name}.weight"])
        return product + parameters[f"{name}.bias"]


exact = Products("float32")


def l2_normalize(x: jax.Array) -> jax.Array:
    """x over the L2 norm of its last axis, which counts as 1e-12 if it is less."""
    return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def layer_norm(
    x: jax.Array, parameters: Parameters, name: str, epsilon: float = _EPSILON
) -> jax.Array:
    """LayerNorm (Ba et al., 2016) of the last axis with `name.weight` and `name.bias`."""
    centred = x - x.mean(axis=-1, keepdims=True)
    variance = jnp.square(centred).mean(axis=-1, keepdims=True)
    normal = centred * jax.lax.rsqrt(variance + epsilon)
    return normal * parameters[f"{name}.weight"] + parameters[f"{name}.bias"]


def unpack_signs(bits: jax.Array) -> jax.Array:
    """+1 and -1 [..., d] float32 of bits [..., d / 8] uint8, highest first."""
    shifts = jnp.arange(7, -1, -1, dtype=jnp.uint8)
    ones = (bits[..., None] >> shifts) & jnp.uint8(1)
    return ones.reshape(*bits.shape[:-1], -1).astype(jnp.float32) * 2 - 1


def is_real(length: int, counts: jax.Array) -> jax.Array:
    """[..., length] bool, True for what is no padding of counts [...]."""
    return jnp.arange(length, dtype=jnp.int32) < counts[..., None]


@dataclasses.dataclass(frozen=True)
class Remap:
    """The first layers of AMES and ELViS, from a descriptor of a network to 128 channels.

    In full precision a dense layer and a LayerNorm, applied once an image. In the binary form the
    signs of x W are stored, and a dense layer and a LayerNorm applied to them.

    Attributes:
        is_binary: which of them.
        input_dim: D, channels of the network's descriptor.
    """

    is_binary: bool
    input_dim: int

    @classmethod
    def of(cls, found: Mapping[str, np.ndarray]) -> "Remap":
        """The form that a checkpoint has; of one that has none the full one."""
        if "remap_local.0.W" in found:
            return cls(True, int(found["remap_local.0.W"].shape[0]))
        weight = found.get("remap_local.0.weight", np.empty((0, 0)))
        return cls(False, int(weight.shape[-1]) if weight.ndim else 0)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of its tensors."""
        first = {"remap_local.0.W": (self.input_dim, DIM)} if self.is_binary else {}
        inputs, number = (DIM, 1) if self.is_binary else (self.input_dim, 0)
        dense, norm = f"remap_local.{number}", f"remap_local.{number + 1}"
        shapes = {f"{dense}.weight": (DIM, inputs), f"{dense}.bias": (DIM,)}
        return {**first, **shapes, f"{norm}.weight": (DIM,), f"{norm}.bias": (DIM,)}

    @property
    def storage(self) -> Literal["float16", "bits"]:
        """How projected descriptors are kept."""
        return "bits" if self.is_binary else "float16"

    @property
    def once(self) -> list[str]:
        """Names of those that are applied once an image."""
        return ["remap_local.0.W"] if self.is_binary else [*self.shapes]

    def project(self, parameters: Parameters, values: jax.Array) -> jax.Array:
        """What is kept of descriptors [..., D] float32, [..., 128]; of binary ones the signs."""
        values = l2_normalize(values)
        if self.is_binary:
            return exact("...i,io->...o", values, parameters["remap_local.0.W"])
        return self.dense(exact, parameters, values)

    def features(self, products: Products, parameters: Parameters, stored: jax.Array) -> jax.Array:
        """[..., 128] float32 of what is kept: [..., 128] numbers, or bits [..., 16] uint8."""
        if not self.is_binary:
            return stored.astype(jnp.float32)
        return self.dense(products, parameters, unpack_signs(stored))

    def dense(self, products: Products, parameters: Parameters, x: jax.Array) -> jax.Array:
        """The dense layer and the LayerNorm, [..., 128] float32 of numbers or signs [..., D]."""
        number = int(self.is_binary)
        x = products.dense(x, parameters, f"remap_local.{number}")
        return layer_norm(x, parameters, f"remap_local.{number + 1}")
