"""Pixels on the device: Pillow's bicubic resize to the bit, centred padding, normalised patches.

Pillow resizes 8-bit images axis by axis, columns first, and rounds to whole levels in between. An
output pixel is a weighted sum of the input pixels under Keys' cubic kernel (a = -0.5), which is
stretched by the scale when an axis shrinks; the weights sum to 1 within the image and are rounded
to multiples of 2**-22. Here both axes are matrix products. The weights are cut into parts of so few
bits that no sum of products is rounded; together they give the integers that Pillow has.

Pillow 13 and later resizes rows first where an image loses more than twice as many rows as columns.
This module never does; `preprocessing.decode` leaves such images to Pillow.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_BITS = 22  # Pillow's weights are multiples of 2**-22
# Type of the factors, and the bits behind the point of each part of the weights. Levels have 8
# bits and float32 adds up 24, so float32 parts are exact for 1,024 weights an output pixel. Matrix
# units take bfloat16, which has 8 bits, several times as fast: exact for 512 weights. Four times
# the scale is the number of weights.
CPU_PARTS = (jnp.float32, (15, _BITS))
MATRIX_UNIT_PARTS = (jnp.bfloat16, (6, 14, _BITS))


def patch_grid(size: jax.Array, patch_size: int) -> jax.Array:
    """Rows and columns [B, 2] int32 of patches of images of size [B, 2] (height, width)."""
    return (size + patch_size - 1) // patch_size


def keys_kernel(distance: np.ndarray | jax.Array, a: float) -> Any:
    """Keys' cubic kernel (Keys, 1981, eq. 4) at distances >= 0, in their dtype.

    They are between pixel centres; a is the slope of the kernel at 1: -0.5 in Pillow, -0.75 in
    torch.
    """
    where = distance.__array_namespace__().where
    near = ((a + 2) * distance - (a + 3)) * distance * distance + 1
    far = ((distance - 5) * distance + 8) * distance * a - 4 * a
    return where(distance <= 1, near, where(distance < 2, far, 0.0))


def canvas_to_patches(
    canvas: jax.Array,
    source: jax.Array,
    target: jax.Array,
    num_tokens: int,
    max_side: int,
    patch_size: int,
) -> jax.Array:
    """Resizes, pads to whole patches and cuts, as `preprocessing.decode` does with one image.

    Args:
        canvas: [B, S, S, 3] uint8, an image in the top left corner; the rest does not count.
        source: [B, 2] int32 height and width of the images, each from 1 to S, S at most 8192.
        target: [B, 2] int32 height and width to resize to, each from 1 to max_side * patch_size,
            which is 8192 at most.
        num_tokens: T, at least the number of patches of every image.
        max_side: patches along the longest side that any image has.
        patch_size: side of a patch.

    Returns:
        [B, T, patch x patch x 3] uint8, row-major in the image's own grid (`patch_grid`), pixels
        outside of the image and tokens beyond the grid 0.
    """
    grid = patch_grid(target, patch_size)
    before = (grid * patch_size - target) // 2
    length = max_side * patch_size
    whole = _resized(canvas, source, target, before, (length, length))
    return _cut(whole, grid, num_tokens, patch_size)


def canvas_to_images(
    canvas: jax.Array, source: jax.Array, target: jax.Array, shape: tuple[int, int]
) -> jax.Array:
    """Resizes as Pillow does; arguments as `canvas_to_patches`.

    Returns:
        [B, *shape, 3] uint8, each image in the top left corner and 0 outside.
    """
    resized = _resized(canvas, source, target, jnp.zeros_like(target), shape)
    return jnp.swapaxes(resized, 2, 3)


def _resized(
    canvas: jax.Array,
    source: jax.Array,
    target: jax.Array,
    before: jax.Array,
    shape: tuple[int, int],
) -> jax.Array:
    """[B, rows, 3, columns] uint8 of shape (rows, columns), 0 outside of the resized images.

    `before` is [B, 2] int32 pixels above and to the left of them.
    """
    rows, columns = (
        axis_weights(source[:, i], target[:, i], before[:, i], shape[i], canvas.shape[1])
        for i in (0, 1)
    )
    # [row, channel, column]: both products then read and write without another transposition.
    pixels = jnp.swapaxes(canvas, 2, 3)
    wide = _product("bycs,bsx->bycx", pixels, jnp.swapaxes(columns, 1, 2))
    return _product("bycx,bty->btcx", wide, rows)


def axis_weights(
    source: jax.Array, target: jax.Array, before: jax.Array, length: int, side: int
) -> jax.Array:
    """Pillow's weights of one axis; zero outside of the image on either end.

    Computed in float64, as Pillow does, so that they are Pillow's to the bit.

    Args:
        source, target, before: [B] int32 pixels that the axis has, to resize it to, and of padding
            before the first one.
        length: pixels of the result, padding included.
        side: pixels of the canvas.

    Returns:
        [B, length, side] float32, multiples of 2**-22.
    """
    source, target, before = (
        one.astype(jnp.int32)[:, None, None] for one in (source, target, before)
    )
    to = jnp.arange(length, dtype=jnp.int32)[:, None] - before
    start = jnp.arange(side, dtype=jnp.int32)
    with jax.enable_x64(True):
        # Distance of the pixels' centres, (start + 0.5) / source - (to + 0.5) / target, in units
        # of the larger pixel: an exact integer over another.
        twice = jnp.abs((2 * start + 1) * target - (2 * to + 1) * source).astype(jnp.float64)
        inside = (start < source) & (to >= 0) & (to < target)
        raw = jnp.where(inside, keys_kernel(twice / (2 * jnp.maximum(source, target)), -0.5), 0.0)
        total = raw.sum(axis=-1, keepdims=True)
        units = raw / jnp.where(total == 0, 1.0, total) * 2.0**_BITS
        nearest = jnp.trunc(units + jnp.where(units < 0, -0.5, 0.5))  # halves away from zero
        return (nearest / 2.0**_BITS).astype(jnp.float32)


def _product(equation: str, pixels: jax.Array, weights: jax.Array) -> jax.Array:
    """A product as `levels` has it, in the parts that suit the device."""
    return jax.lax.platform_dependent(
        pixels,
        weights,
        cpu=functools.partial(levels, equation, *CPU_PARTS),
        default=functools.partial(levels, equation, *MATRIX_UNIT_PARTS),
    )


def levels(
    equation: str,
    dtype: jax.typing.DTypeLike,
    bits: tuple[int, ...],
    pixels: jax.Array,
    weights: jax.Array,
) -> jax.Array:
    """A product, rounded to whole levels (halves up) and clipped, without any other rounding.

    Args:
        equation: as `jnp.einsum` takes it.
        dtype: of the factors; must hold 256 and the parts of the weights.
        bits: behind the point of the parts of the weights, coarse to fine, the last one 22.
        pixels: uint8, as is what is returned.
        weights: float32 multiples of 2**-22.
    """
    level, rest = jnp.float32(0), jnp.float32(0.5)
    for number in bits:
        part = jnp.round(weights * 2.0**number) / 2.0**number
        weights = weights - part
        rest += jnp.einsum(
            equation,
            pixels.astype(dtype),
            part.astype(dtype),
            precision=jax.lax.Precision.HIGHEST,
            preferred_element_type=jnp.float32,
        )
        whole = jnp.floor(rest)
        level, rest = level + whole, rest - whole
    return jnp.clip(level, 0, 255).astype(jnp.uint8)


def _cut(pixels: jax.Array, grid: jax.Array, num_tokens: int, patch_size: int) -> jax.Array:
    """[B, rows, 3, columns] uint8 -> the tokens [B, T, patch x patch x 3] of every image's grid."""
    num_images, length = pixels.shape[:2]
    side = length // patch_size
    parts = pixels.reshape(num_images, side, patch_size, 3, side, patch_size)
    patches = parts.transpose(0, 1, 4, 2, 5, 3).reshape(num_images, side * side, -1)
    token = jnp.arange(num_tokens, dtype=jnp.int32)
    row, column = jnp.divmod(token, grid[:, 1:])  # [B, T]
    index = jnp.where(row < grid[:, :1], row * side + column, side * side)
    return jax.vmap(lambda one, at: one.at[at].get(mode="fill", fill_value=0))(patches, index)


def normalize_images(
    images: jax.Array,
    size: jax.Array,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
) -> jax.Array:
    """As `normalize_patches`, of whole images [B, H, W, 3] in the top left corner."""
    row, column = (jnp.arange(n, dtype=jnp.int32)[None] for n in images.shape[1:3])
    visible = (row < size[:, :1])[:, :, None] & (column < size[:, 1:])[:, None]
    return jnp.where(visible[..., None], _normalized(images, mean, std), 0.0)


def _normalized(
    pixels: jax.Array, mean: tuple[float, float, float], std: tuple[float, float, float]
) -> jax.Array:
    """[..., 3] uint8 -> (pixel / 255 - mean) / std, float32."""
    scaled = pixels.astype(jnp.float32) / 255.0
    return (scaled - jnp.asarray(mean, jnp.float32)) / jnp.asarray(std, jnp.float32)


def normalize_patches(
    patches: jax.Array,
    size: jax.Array,
    patch_size: int,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
) -> jax.Array:
    """Normalises, then pads with zeros, as the official preprocessing does in that order.

    Args:
        patches: [B, T, patch x patch x 3] uint8, row-major, padded symmetrically.
        size: [B, 2] int32 height and width of the images before padding.
        patch_size: side of a patch.
        mean, std: of the channels, for pixels in [0, 1].

    Returns:
        float32 like patches: (pixel / 255 - mean) / std inside of the image and 0 outside.
    """
    grid = patch_grid(size, patch_size)
    before = (grid * patch_size - size) // 2  # [B, 2]
    token = jnp.arange(patches.shape[1], dtype=jnp.int32)[None, :]
    corner = jnp.stack(jnp.divmod(token, grid[:, 1:]), axis=-1) * patch_size  # [B, T, 2]
    within = jnp.arange(patch_size, dtype=jnp.int32)
    offsets = corner[..., None] + within - before[:, None, :, None]  # [B, T, 2, patch]
    inside = (offsets >= 0) & (offsets < size[:, None, :, None])
    visible = inside[:, :, 0, :, None] & inside[:, :, 1, None, :]  # [B, T, patch, patch]
    pixels = patches.reshape(*patches.shape[:2], patch_size, patch_size, 3)
    normal = _normalized(pixels, mean, std)
    return jnp.where(visible[..., None], normal, 0.0).reshape(patches.shape)
