"""Convolutions of arrays, by device.

Accelerators have convolutions of their own, and `jax.lax` calls them. On a CPU XLA's are half as
fast as PyTorch's, those of one channel each a hundredth, so that there

- a kernel of 1 x 1, or one that is as wide as its stride, is a matrix product;
- 3 x 3 at stride 1 is Winograd's F(2 x 2, 3 x 3) (Lavin and Gray, 2016, section 4.1), which takes
  16 products for 36; in float32 its rounding is that of the sum itself;
- one of each channel by itself is a sum of shifted maps, 16 channels at a time, as many as a
  register holds.

None lets an output depend on what the kernel does not cover, not even by rounding.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

Pads = tuple[tuple[int, int], tuple[int, int]]
_LANES = 16  # float32 of a register
_FEWEST = 32  # input channels, below which products are too thin for Winograd's


def convolve(
    array: jax.Array,
    kernel: jax.Array,
    stride: int,
    padding: Pads,
    groups: int = 1,
    transformed: Sequence[jax.Array] = (),
) -> jax.Array:
    """A convolution, padded with zeros.

    Args:
        array: [B, H, W, C].
        kernel: [height, width, C / groups, outputs] of the same dtype.
        stride: of both axes.
        padding: pixels above and below, left and right.
        groups: of channels, each seen by its own part of the outputs.
        transformed: what `transform` gave for the kernel.

    Returns:
        [B, H', W', outputs] of that dtype.
    """
    height, width, inputs, outputs = kernel.shape
    if jax.local_devices()[0].platform == "cpu":
        bare = not any(map(any, padding))
        if groups == 1 and bare and (height, width) in ((1, 1), (stride, stride)):
            return _product(array, kernel, stride)
        if groups == array.shape[3] == outputs:
            return _shifted_sum(array, kernel, stride, padding)
        if transformed:
            return _winograd(array, transformed, padding)
    return jax.lax.conv_general_dilated(
        array,
        kernel,
        (stride, stride),
        padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


def transform(kernel: jax.Array, stride: int, groups: int) -> tuple[jax.Array, ...]:
    """Winograd's 16 matrices [C, outputs] of a kernel, row by row; none where they are of no use.

    Taking them once for many images is what makes them cheap.
    """
    height, width, inputs, _ = kernel.shape
    fits = (height, width, stride, groups) == (3, 3, 1, 1) and inputs >= _FEWEST
    if not fits or kernel.dtype != jnp.float32 or jax.local_devices()[0].platform != "cpu":
        return ()

    def of_three(one: jax.Array) -> list[jax.Array]:
        outer, middle = (one[0] + one[2]) * 0.5, one[1] * 0.5
        return [one[0], outer + middle, outer - middle, one[2]]

    return tuple(matrix for row in of_three(kernel) for matrix in of_three(row))


def _product(array: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """A convolution whose windows do not overlap, without padding."""
    batch, height, width, channels = array.shape
    side = kernel.shape[0]
    if side == 1:
        return _matmul(array[:, ::stride, ::stride], kernel[0, 0])
    rows, columns = height // side, width // side
    cut = array[:, : rows * side, : columns * side]
    cut = cut.reshape(batch, rows, side, columns, side, channels).transpose(0, 1, 3, 2, 4, 5)
    return _matmul(cut.reshape(batch, rows, columns, -1), kernel.reshape(-1, kernel.shape[3]))


def _matmul(array: jax.Array, matrix: jax.Array) -> jax.Array:
    """[..., C] times [C, D], as one product."""
    flat = array.reshape(-1, array.shape[-1]) @ matrix
    return flat.reshape(*array.shape[:-1], matrix.shape[1])


def _shifted_sum(array: jax.Array, kernel: jax.Array, stride: int, padding: Pads) -> jax.Array:
    """A convolution of each channel by itself."""
    height, width, _, channels = kernel.shape
    lanes = next(n for n in (_LANES, 8, 4, 2, 1) if channels % n == 0)
    padded = jnp.pad(array, ((0, 0), *padding, (0, 0)))
    batch, rows, columns, _ = padded.shape
    blocks = padded.reshape(batch, rows, columns, -1, lanes).transpose(0, 3, 1, 2, 4)
    weights = kernel.reshape(height, width, -1, 1, 1, lanes)
    rows, columns = (rows - height) // stride + 1, (columns - width) // stride + 1
    total = jnp.zeros((batch, channels // lanes, rows, columns, lanes), array.dtype)
    for i in range(height):
        for j in range(width):
            down, right = i + (rows - 1) * stride + 1, j + (columns - 1) * stride + 1
            total += blocks[:, :, i:down:stride, j:right:stride] * weights[i, j]
    return total.transpose(0, 2, 3, 1, 4).reshape(batch, rows, columns, channels)


def _winograd(array: jax.Array, transformed: Sequence[jax.Array], padding: Pads) -> jax.Array:
    """3 x 3 at stride 1, by tiles of 2 x 2 outputs; `transformed` as of `transform`."""
    batch, height, width, _ = array.shape
    rows, columns = height + sum(padding[0]) - 2, width + sum(padding[1]) - 2
    down, right = -(-rows // 2), -(-columns // 2)  # tiles
    above, left = padding[0][0], padding[1][0]
    below, beyond = 2 * down + 2 - height - above, 2 * right + 2 - width - left
    padded = jnp.pad(array, ((0, 0), (above, below), (left, beyond), (0, 0)))

    def of_four(one: Sequence[jax.Array]) -> list[jax.Array]:
        return [one[0] - one[2], one[1] + one[2], one[2] - one[1], one[1] - one[3]]

    def to_two(one: Sequence[jax.Array]) -> list[jax.Array]:
        return [one[0] + one[1] + one[2], one[1] - one[2] - one[3]]

    def seen(i: int, j: int) -> jax.Array:
        """One of the 4 x 4 inputs of every tile."""
        return padded[:, i : i + 2 * down - 1 : 2, j : j + 2 * right - 1 : 2]

    along = [of_four([seen(i, j) for i in range(4)]) for j in range(4)]
    tiles = [of_four([along[j][i] for j in range(4)]) for i in range(4)]
    products = [[_matmul(tiles[i][j], transformed[4 * i + j]) for i in range(4)] for j in range(4)]
    summed = [to_two(column) for column in products]
    pairs = [to_two([summed[j][i] for j in range(4)]) for i in range(2)]
    joined = jnp.stack([jnp.stack(pair, axis=3) for pair in pairs], axis=2)
    return joined.reshape(batch, 2 * down, 2 * right, -1)[:, :rows, :columns]
