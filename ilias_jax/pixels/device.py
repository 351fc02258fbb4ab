"""Device side of the pixels: normalise uint8 patches and zero what lies outside of the image."""

import jax
import jax.numpy as jnp


def patch_grid(size: jax.Array, patch_size: int) -> jax.Array:
    """Rows and columns [B, 2] int32 of patches of images of size [B, 2] (height, width)."""
    return (size + patch_size - 1) // patch_size


def normalize_patches(
    patches: jax.Array,
    size: jax.Array,
    patch_size: int,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    dtype: jax.typing.DTypeLike = "float32",
) -> jax.Array:
    """Normalises, then pads with zeros, as the official preprocessing does in that order.

    Args:
        patches: [B, T, patch x patch x 3] uint8, row-major, padded symmetrically.
        size: [B, 2] int32 height and width of the images before padding.
        patch_size: side of a patch.
        mean: of the channels, for pixels in [0, 1].
        std: of the channels, for pixels in [0, 1].
        dtype: of the result.

    Returns:
        [B, T, patch x patch x 3]: (pixel / 255 - mean) / std inside of the image and 0 outside.
    """
    grid = patch_grid(size, patch_size)
    before = (grid * patch_size - size) // 2  # [B, 2]
    token = jnp.arange(patches.shape[1], dtype=jnp.int32)[None, :]
    corner = jnp.stack(jnp.divmod(token, grid[:, 1:]), axis=-1) * patch_size  # [B, T, 2]
    offset = jnp.arange(patch_size, dtype=jnp.int32)
    place = corner[..., None] + offset - before[:, None, :, None]  # [B, T, 2, patch]
    inside = (place >= 0) & (place < size[:, None, :, None])
    visible = inside[:, :, 0, :, None] & inside[:, :, 1, None, :]  # [B, T, patch, patch]
    pixels = patches.reshape(*patches.shape[:2], patch_size, patch_size, 3)
    scaled = pixels.astype(jnp.float32) / 255.0
    normal = (scaled - jnp.asarray(mean, jnp.float32)) / jnp.asarray(std, jnp.float32)
    return jnp.where(visible[..., None], normal, 0.0).reshape(patches.shape).astype(dtype)
