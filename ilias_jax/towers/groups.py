"""The images of a batch a few at a time, where their activations should stay in a CPU's caches.

A layer of a large tower takes a batch's tokens through memory several times. On a CPU the layers of
a few images are quicker one after the other; an accelerator wants the whole batch.
"""

from collections.abc import Callable

import jax

_TOKENS = 1024  # of a group; a layer's weights are read once for so many


def group_size(batch_size: int, num_tokens: int) -> int:
    """Images of a group: the most that divide the batch and have 1,024 tokens, at least 1.

    Args:
        batch_size: images of the batch.
        num_tokens: of each image, padding included.
    """
    return largest_divisor(batch_size, _TOKENS // num_tokens)


def largest_divisor(count: int, most: int) -> int:
    """The largest divisor of `count` that is at most `most`; 1 where `most` is less."""
    sizes = range(1, min(most, count) + 1)
    return max((size for size in sizes if count % size == 0), default=1)


def in_groups(
    function: Callable[[jax.Array, jax.Array], jax.Array], tokens: jax.Array, grid: jax.Array
) -> jax.Array:
    """What `function` makes of a batch; on a CPU a group at a time.

    Args:
        function: (tokens [n, T, C], grid [n, 2]) -> [n, D], no row depending on another.
        tokens: [B, T, C].
        grid: [B, 2].

    Returns:
        [B, D].
    """
    batch_size, num_tokens, channels = tokens.shape
    on_cpu = jax.local_devices()[0].platform == "cpu"
    size = group_size(batch_size, num_tokens) if on_cpu else batch_size
    if size == batch_size:
        return function(tokens, grid)
    groups = tokens.reshape(-1, size, num_tokens, channels), grid.reshape(-1, size, 2)
    embedded = jax.lax.map(lambda group: function(*group), groups)
    return embedded.reshape(batch_size, -1)
