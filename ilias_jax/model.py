"""What the benchmark needs of a model: functions from arrays to embeddings, and their inputs.

A model of one's own is a `Model`; `parameters_sha256` or `file_sha256` identifies its weights, and
`to_images` gives whole images to networks that take one fixed square.
"""

import dataclasses
import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from ilias_jax import files
from ilias_jax.errors import UserError

Parameters = Any  # a pytree of arrays, numpy or jax
ImageFunction = Callable[[Parameters, jax.Array, jax.Array], jax.Array]
TextFunction = Callable[[Parameters, jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """How an image becomes what a network takes.

    Attributes:
        resolution: pixels of the longest side after the resize, R.
        patch_size: side of a patch in pixels; images are padded to a multiple of it.
        mean: of each channel, for pixels in [0, 1].
        std: of each channel, for pixels in [0, 1].
        max_scale: at least 1: the tower takes grids of images up to this much larger than
            `resolution`, as views of several scales need.
        whole: whether the network takes images whole, each in the top left corner of one of a few
            canvases, as CNNs do, instead of as a sequence of patches; `patch_size` is 1 then.
        min_side: pixels of the shortest side that the network takes; images below are rejected.
    """

    resolution: int
    patch_size: int
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    max_scale: float = 1.0
    whole: bool = False
    min_side: int = 1

    @property
    def max_side(self) -> int:
        """Patches along the longest side of the largest view."""
        return self.side_at(self.max_scale)

    def longest_at(self, scale: float) -> int:
        """Pixels of the longest side of an image at a scale, before padding."""
        return math.floor(self.resolution * scale)

    def side_at(self, scale: float) -> int:
        """Patches along the longest side of an image at a scale."""
        return -(-self.longest_at(scale) // self.patch_size)


@dataclasses.dataclass(frozen=True)
class Model:
    """A two-tower model, or an image tower alone.

    Attributes:
        name: as in the table of models or the user's own.
        parameters: of both towers.
        preprocessing: of the images.
        embed_images: (parameters, pixels [B, T, patch x patch x 3] float32 normalised, grid [B, 2]
            int32 rows and columns) -> [B, D] float32, unnormalised. Must not mix rows of the batch.
            With `Preprocessing.whole` pixels are [B, H, W, 3], 0 outside of the images, and grid
            is their height and width.
        embed_texts: (parameters, tokens [B, L] int32) -> [B, D] float32, unnormalised; None if the
            model has no text tower.
        tokenize: N texts -> [N, L] int32; None without text tower.
        fingerprint: plain values that identify the weights and how they are run.
        text_fingerprint: the same for what texts alone depend on, such as the tokenizer.
        checkpoint: where the weights are, for the report; a moved file changes no embedding.
        origin: by what they are for, where downloaded files came from, for the report.
        embed_patches: as `embed_images`, but to the last layer's normalised tokens of the patches,
            [B, T, D] float32, which are local descriptors; those beyond rows x columns may be
            anything. None if the model has none.
    """

    name: str
    parameters: Parameters
    preprocessing: Preprocessing
    embed_images: ImageFunction
    embed_texts: TextFunction | None
    tokenize: Callable[[Sequence[str]], np.ndarray] | None
    fingerprint: Mapping[str, object]
    text_fingerprint: Mapping[str, object] = dataclasses.field(default_factory=dict)
    checkpoint: str | None = None
    origin: Mapping[str, str] = dataclasses.field(default_factory=dict)
    embed_patches: ImageFunction | None = None

    def image_fingerprint(self) -> dict[str, object]:
        """The fingerprint with the preprocessing: what an embedding depends on beside its image."""
        preprocessing = dataclasses.asdict(self.preprocessing)
        del preprocessing["max_scale"]  # a bound; which views there are is not the model's matter
        if not self.preprocessing.whole:  # younger than embeddings that are still good
            del preprocessing["whole"], preprocessing["min_side"]
        return {"model": dict(self.fingerprint), "preprocessing": preprocessing}


def file_sha256(path: epath.PathLike) -> str:
    """Hexadecimal sha256 of a checkpoint file, for a model's fingerprint."""
    return files.sha256(path)


def parameters_sha256(parameters: Parameters) -> str:
    """Hexadecimal sha256 of all arrays of a parameter tree, for a model's fingerprint.

    The leaves are arrays, numpy or jax, or typed random keys. Order, dtypes, shapes and values are
    hashed, and no names: libraries rename those, and that must not embed a database again. About a
    second for a gigabyte.

    Raises:
        UserError: it holds no array at all, so the hash would be that of any such model.
    """
    leaves = jax.tree.leaves(parameters)
    if not leaves:
        raise UserError(
            "the parameters hold no arrays, so they identify no model; weights that a function "
            "closes over are not seen: put them into Model.parameters"
        )
    digest = hashlib.sha256()
    for leaf in leaves:
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        value = np.asarray(jax.device_get(leaf))
        digest.update(f"{value.dtype.name}{value.shape}".encode())
        digest.update(np.ascontiguousarray(value).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def to_images(pixels: jax.Array, grid: jax.Array, side: int, patch_size: int) -> jax.Array:
    """Puts each image back together in the middle of a square of zeros, the mean colour.

    A network of a fixed square so sees the whole picture undistorted, with grey bands, which the
    published protocol has not: it runs at each image's own grid. With
    `Preprocessing(resolution=R, patch_size=R)` the one patch is the whole square already:
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
    pixel = jnp.arange(length, dtype=jnp.int32)[None, :, None] - before[:, None, :]  # [B, S, 2]
    inside = (pixel >= 0) & (pixel < grid[:, None, :] * patch_size)
    token, offset = jnp.divmod(jnp.where(inside, pixel, 0), patch_size)
    source = token[:, :, None, 0] * grid[:, None, None, 1] + token[:, None, :, 1]  # [B, S, S]
    source = source * patch_size**2 + offset[:, :, None, 0] * patch_size + offset[:, None, :, 1]
    flat = pixels.reshape(len(pixels), -1, 3)
    images = jnp.take_along_axis(flat, source.reshape(len(pixels), -1, 1), axis=1)
    visible = inside[:, :, None, 0] & inside[:, None, :, 1]
    return jnp.where(visible[..., None], images.reshape(*source.shape, 3), 0)
