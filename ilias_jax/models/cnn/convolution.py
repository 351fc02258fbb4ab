"""Convolutions of arrays by device."""

import jax


def convolve(
    array: jax.Array,
    kernel: jax.Array,
    stride: int,
    padding: tuple[tuple[int, int], tuple[int, int]],
    groups: int = 1,
) -> jax.Array:
    """A convolution of [B, H, W, C] with [height, width, C / groups, outputs]."""
    return jax.lax.conv_general_dilated(
        array,
        kernel,
        (stride, stride),
        padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )
