"""Whole images from patches, for networks that take one fixed square."""

import jax
import jax.numpy as jnp


def to_images(pixels: jax.Array, grid: jax.Array, side: int, patch_size: int) -> jax.Array:
    """Puts each image back together in the middle of a square of zeros, the mean colour.

    The longest side has been resized to the resolution and the aspect kept, so a network of a fixed
    square sees the whole picture undistorted, with grey bands. The published protocol has no such
    bands: it runs at each image's own grid.

    With `Preprocessing(resolution=R, patch_size=R)` the one patch is the whole square already:
    `to_images(pixels, grid, 1, R)` only reshapes, and every batch has the same shape.

    Args:
        pixels: [B, T, patch x patch x 3] normalised, as `Model.embed_images` gets them.
        grid: [B, 2] int32 rows and columns of patches, each in [1, side].
        side: patches along a side of the square, a Python integer; `Preprocessing.max_side`.
        patch_size: side of a patch in pixels.

    Returns:
        [B, S, S, 3] of the dtype of `pixels`, S = side x patch_size. An image is centred to the
        pixel; to within one pixel where the patch size is odd.
    """
    length = side * patch_size
    if side == 1:
        return pixels.reshape(-1, length, length, 3)
    before = (side - grid) * patch_size // 2  # [B, 2] pixels of the square above and to the left
    place = jnp.arange(length, dtype=jnp.int32)[None, :, None] - before[:, None, :]  # [B, S, 2]
    inside = (place >= 0) & (place < grid[:, None, :] * patch_size)
    token, offset = jnp.divmod(jnp.where(inside, place, 0), patch_size)
    source = token[:, :, None, 0] * grid[:, None, None, 1] + token[:, None, :, 1]  # [B, S, S]
    source = source * patch_size**2 + offset[:, :, None, 0] * patch_size + offset[:, None, :, 1]
    flat = pixels.reshape(len(pixels), -1, 3)
    images = jnp.take_along_axis(flat, source.reshape(len(pixels), -1, 1), axis=1)
    visible = inside[:, :, None, 0] & inside[:, None, :, 1]
    return jnp.where(visible[..., None], images.reshape(*source.shape, 3), 0)
