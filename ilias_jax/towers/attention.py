"""Scaled dot-product attention (Vaswani et al., 2017) over padded rows, as suits the device.

Three ways with one result, up to rounding:

- "cudnn": cuDNN's flash attention, on NVIDIA GPUs from Ampere on, in bfloat16 and float16;
- "xla": one product over all heads, `jax.nn.dot_product_attention`, for everything else;
- "grouped": the same a few heads at a time, so that their scores stay in a CPU's cache. On CPUs the
  products are short (64 channels) and the scores many; written to memory they cost more than them.

"auto" takes one of these by platform, dtype and head size.
"""

import re
from typing import Literal

import jax
import jax.numpy as jnp

from ilias_jax.errors import UserError
from ilias_jax.towers.groups import largest_divisor

Choice = Literal["auto", "xla", "cudnn", "grouped"]
Way = Literal["xla", "cudnn", "grouped"]
_GROUP_SCORES = 1 << 18  # of float32, 1 MiB: about the cache of a core
_OUT = -1e30  # score of a masked key; finite, so that a row without any key is no NaN
_AMPERE = (8, 0)


def choose(
    platform: str,
    dtype: jax.typing.DTypeLike,
    head_dim: int,
    capability: tuple[int, int] | None = None,
) -> Way:
    """The way that "auto" stands for.

    Args:
        platform: "cpu", "gpu" or "tpu".
        dtype: of query, key and value.
        head_dim: channels of a head.
        capability: compute capability of an NVIDIA GPU; None for any other device.
    """
    if platform == "cpu":
        return "grouped"
    short = jnp.dtype(dtype) in (jnp.dtype("bfloat16"), jnp.dtype("float16"))
    fits = short and head_dim % 8 == 0 and head_dim <= 128
    return "cudnn" if capability is not None and capability >= _AMPERE and fits else "xla"


def attend(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    mask: jax.Array | None = None,
    choice: Choice = "auto",
    *,
    causal: bool = False,
) -> jax.Array:
    """Attention of each query to the real keys of its row, softmax in float32.

    Args:
        query: [B, T, heads, head size].
        key: [B, S, heads, head size].
        value: [B, S, heads, head size].
        mask: [B, S], True for real keys, which come before the padding in every row; None if all
            are real. A row must have at least one for its result to mean anything.
        choice: which way.
        causal: whether query t attends to keys 0 to t alone; T is S then.

    Returns:
        [B, T, heads, head size] of the query's dtype.
    """
    way = _choose_here(query.dtype, query.shape[3]) if choice == "auto" else choice
    if way == "cudnn" and query.shape[1] == 1:
        way = "xla"  # a single query, as in pooling, has no scores worth saving
    if way == "grouped":
        return _grouped(query, key, value, mask, causal)
    if way == "cudnn":
        lengths = None if mask is None else mask.sum(axis=1, dtype=jnp.int32)
        return jax.nn.dot_product_attention(
            query,
            key,
            value,
            is_causal=causal,
            key_value_seq_lengths=lengths,
            implementation="cudnn",
        )
    key_mask = None if mask is None else mask[:, None, None, :]
    return jax.nn.dot_product_attention(
        query, key, value, mask=key_mask, is_causal=causal, implementation="xla"
    )


def check_choice(choice: Choice, dtype: str, head_dim: int) -> None:
    """Refuses cuDNN where it cannot run, before anything is compiled.

    Args:
        choice: what the configuration says.
        dtype: of the computation.
        head_dim: channels of a head.

    Raises:
        UserError: cuDNN is asked for and has no flash attention for this device, dtype or size.
    """
    if choice == "cudnn" and _choose_here(dtype, head_dim) != "cudnn":
        device = jax.local_devices()[0]
        raise UserError(
            f"model.attention='cudnn' needs an NVIDIA GPU from Ampere on, bfloat16 "
            f"and heads of 8, 16, ... 128 channels; here: {device.device_kind}, {dtype}, "
            f"{head_dim} channels. Use 'auto'"
        )


def _choose_here(dtype: jax.typing.DTypeLike, head_dim: int) -> Way:
    """What "auto" stands for on the default backend."""
    device = jax.local_devices()[0]
    numbers = re.fullmatch(r"(\d+)\.(\d+)", str(getattr(device, "compute_capability", "")))
    capability = None if numbers is None else (int(numbers[1]), int(numbers[2]))
    return choose(device.platform, dtype, head_dim, capability)


def group_size(num_heads: int, scores: int) -> int:
    """Heads taken at a time: the most that divide them all and stay within the cache, at least 1.

    Args:
        num_heads: heads of all rows of the batch together.
        scores: of one head.
    """
    return largest_divisor(num_heads, _GROUP_SCORES // scores)


def _grouped(
    query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array | None, causal: bool
) -> jax.Array:
    """Attention in a loop over groups of heads; see `attend`."""
    batch, length, heads, size = query.shape
    group = group_size(batch * heads, length * key.shape[1])

    def grouped(x: jax.Array) -> jax.Array:
        """[B, T, heads, size] -> [groups, heads of a group, T, size]."""
        return x.swapaxes(1, 2).reshape(-1, group, x.shape[1], x.shape[3])

    def one(arrays: tuple[jax.Array, jax.Array, jax.Array, jax.Array | None]) -> jax.Array:
        query, key, value, real = arrays
        scores = jnp.einsum("gtd,gsd->gts", query, key, preferred_element_type=jnp.float32)
        scores *= size**-0.5
        if real is not None:
            scores = jnp.where(real[:, None, :], scores, _OUT)
        if causal:
            scores = jnp.where(jnp.tri(length, dtype=bool), scores, _OUT)
        weights = jnp.exp(scores - scores.max(axis=2, keepdims=True))
        total = weights.sum(axis=2)[..., None]
        # Dividing the sums is cheaper than dividing the weights, of which there are more.
        sums = jnp.einsum(
            "gts,gsd->gtd", weights.astype(value.dtype), value, preferred_element_type=jnp.float32
        )
        return (sums / total).astype(query.dtype)

    real = (
        None if mask is None else jnp.repeat(mask, heads, axis=0).reshape(-1, group, key.shape[1])
    )
    arrays = (grouped(query), grouped(key), grouped(value), real)
    every = len(arrays[0])
    attended = one(jax.tree.map(lambda x: x[0], arrays)) if every == 1 else jax.lax.map(one, arrays)
    return attended.reshape(batch, heads, length, size).swapaxes(1, 2)
