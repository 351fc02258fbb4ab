"""What the benchmark needs of a model: functions from arrays to embeddings, and their inputs."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

Parameters = Any  # a pytree of arrays, numpy or jax
ImageFunction = Callable[[Parameters, jax.Array, jax.Array], jax.Array]
TextFunction = Callable[[Parameters, jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """How an image becomes patches.

    Attributes:
        resolution: pixels of the longest side after the resize, R.
        patch_size: side of a patch in pixels; images are padded to a multiple of it.
        mean: of each channel, for pixels in [0, 1].
        std: of each channel, for pixels in [0, 1].
        max_scale: at least 1: the tower takes grids of images up to this much larger than
            `resolution`, as views of several scales need.
    """

    resolution: int
    patch_size: int
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    max_scale: float = 1.0

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
        embed_texts: (parameters, tokens [B, L] int32) -> [B, D] float32, unnormalised; None if the
            model has no text tower.
        tokenize: N texts -> [N, L] int32; None without text tower.
        fingerprint: plain values that identify the weights and how they are run.
        text_fingerprint: the same for what texts alone depend on, such as the tokenizer.
        checkpoint: where the weights are, for the report; a moved file changes no embedding.
        origin: by what they are for, where downloaded files came from, for the report.
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

    def image_fingerprint(self) -> dict[str, object]:
        """The fingerprint with the preprocessing: what an embedding depends on beside its image."""
        preprocessing = dataclasses.asdict(self.preprocessing)
        del preprocessing["max_scale"]  # a bound; which views there are is not the model's matter
        return {"model": dict(self.fingerprint), "preprocessing": preprocessing}


@dataclasses.dataclass(frozen=True)
class TextModel:
    """A text tower alone.

    Attributes:
        name: as in the table of models.
        parameters: of the text tower.
        embed_texts: (parameters, tokens [B, L] int32) -> [B, D] float32, unnormalised.
        tokenize: N texts -> [N, L] int32.
        fingerprint: plain values that identify the weights and how they are run.
        checkpoint: where the weights are.
        origin: by what they are for, where downloaded files came from.
    """

    name: str
    parameters: Parameters
    embed_texts: TextFunction
    tokenize: Callable[[Sequence[str]], np.ndarray]
    fingerprint: Mapping[str, object]
    checkpoint: str
    origin: Mapping[str, str] = dataclasses.field(default_factory=dict)
