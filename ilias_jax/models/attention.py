"""Scaled dot-product attention (Vaswani et al., 2017) over padded rows, by device.

Three implementations, equal up to rounding:

- "cudnn": cuDNN's flash attention, on NVIDIA GPUs from Ampere on, in bfloat16 and float16;
- "xla": one product over all heads, `jax.nn.dot_product_attention`;
- "grouped": a few heads at a time, so that their scores stay in a CPU's cache. On CPUs the
  products are short (64 channels) and writing all scores to memory costs more than they do.

"auto" chooses by platform, dtype and head size. `in_microbatches` does the same for whole towers:
on a CPU it runs a few images of a batch at a time.
"""

import math
import re
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp

Way = Literal["xla", "cudnn", "grouped"]
Choice = Literal["auto", "xla", "cudnn", "grouped"]
_GROUP_SCORES = 1 << 18  # of float32, 1 MiB: about the cache of a core
_OUT = -1e30  # score of a masked key; finite, so that a row without any key is no NaN
_AMPERE = (8, 0)
_MICROBATCH_TOKENS = 1024  # a layer's weights are read once for so many


def choose(
    platform: str,
    dtype: jax.typing.DTypeLike,
    head_dim: int,
    capability: tuple[int, int] | None = None,
) -> Way:
    """The implementation that "auto" stands for.

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


def choose_here(dtype: jax.typing.DTypeLike, head_dim: int) -> Way:
    """The implementation that "auto" stands for on the default backend."""
    device = jax.local_devices()[0]
    numbers = re.fullmatch(r"(\d+)\.(\d+)", str(getattr(device, "compute_capability", "")))
    capability = None if numbers is None else (int(numbers[1]), int(numbers[2]))
    return choose(device.platform, dtype, head_dim, capability)


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
        mask: [B, S], True for real keys, which precede the padding in every row; None if all are
            real. A row without any has a finite result without meaning.
        choice: the implementation.
        causal: whether query t attends to keys 0 to t alone; T is S then.

    Returns:
        [B, T, heads, head size] of the query's dtype.
    """
    way = choose_here(query.dtype, query.shape[3]) if choice == "auto" else choice
    if way == "grouped":
        return _grouped(query, key, value, mask, causal)
    if way == "cudnn" and query.shape[1] > 1:  # one query, as in pooling, has few scores to save
        lengths = None if mask is None else mask.sum(axis=1, dtype=jnp.int32)
        options: dict[str, Any] = {"key_value_seq_lengths": lengths, "implementation": "cudnn"}
    else:
        key_mask = None if mask is None else mask[:, None, None, :]
        options = {"mask": key_mask, "implementation": "xla"}
    return jax.nn.dot_product_attention(query, key, value, is_causal=causal, **options)


def largest_divisor(count: int, most: int) -> int:
    """The largest divisor of `count` that is at most `most`; 1 where `most` is less."""
    sizes = range(1, min(most, count) + 1)
    return max((size for size in sizes if count % size == 0), default=1)


def _grouped(
    query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array | None, causal: bool
) -> jax.Array:
    """Attention in a loop over groups of heads of all rows, whose scores fit a core's cache."""
    batch, length, heads, size = query.shape
    group = largest_divisor(batch * heads, _GROUP_SCORES // (length * key.shape[1]))

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

    real = None
    if mask is not None:
        real = jnp.repeat(mask, heads, axis=0).reshape(-1, group, key.shape[1])
    arrays = (grouped(query), grouped(key), grouped(value), real)
    if len(arrays[0]) == 1:
        attended = one(jax.tree.map(lambda x: x[0], arrays))
    else:
        attended = jax.lax.map(one, arrays)
    return attended.reshape(batch, heads, length, size).swapaxes(1, 2)


def in_microbatches(
    function: Callable[[jax.Array, jax.Array], jax.Array], tokens: jax.Array, grid: jax.Array
) -> jax.Array:
    """Applies a function to inputs and grid [B, 2]; on a CPU in a loop over microbatches.

    A layer of a large network takes a batch's tokens through memory several times. On a CPU the
    layers of a few images are quicker one after the other; an accelerator wants the whole batch.

    Args:
        function: (inputs [n, ...], grid [n, 2]) -> [n, ..., D], no row depending on another.
        tokens: the inputs, [B, T, C], or whole images [B, H, W, 3].

    Returns:
        [B, ..., D].
    """
    batch_size, *inner, _ = tokens.shape
    on_cpu = jax.local_devices()[0].platform == "cpu"
    most = _MICROBATCH_TOKENS // math.prod(inner)
    size = largest_divisor(batch_size, most) if on_cpu else batch_size
    if size == batch_size:
        return function(tokens, grid)
    batches = tokens.reshape(-1, size, *tokens.shape[1:]), grid.reshape(-1, size, 2)
    embedded = jax.lax.map(lambda batch: function(*batch), batches)
    return embedded.reshape(batch_size, *embedded.shape[2:])
