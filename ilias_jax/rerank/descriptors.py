"""Local descriptors of images: several vectors an image, each of a place in it."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class Descriptors:
    """Local descriptors of N images, padded to n each: the strongest first, padding last.

    Attributes:
        values: [N, n, d] float16 or float32; or [N, n, d / 8] uint8, signs as bits, highest first,
            1 for +1 and 0 for -1. Padding is 0.
        locations: [N, n, 2] float32 row and column of a descriptor's centre as shares of the
            picture's height and width, in [0, 1]; 0 for padding.
        weights: [N, n] float32 by which the strongest were found; 0 for padding.
        counts: [N] int32 how many of the n are real.
    """

    values: np.ndarray
    locations: np.ndarray
    weights: np.ndarray
    counts: np.ndarray

    def __len__(self) -> int:
        return len(self.counts)

    @property
    def is_binary(self) -> bool:
        """Whether the values are bits."""
        return self.values.dtype == np.uint8

    @property
    def mask(self) -> np.ndarray:
        """[N, n] bool, True for what is no padding."""
        return np.arange(self.values.shape[1]) < self.counts[:, None]

    def take(self, images: np.ndarray) -> "Descriptors":
        """Those of some images, which may come again, in this order."""
        return Descriptors(*(array[images] for array in vars(self).values()))

    def strongest(self, count: int) -> "Descriptors":
        """At most `count` of each image."""
        cut = (array[:, :count] for array in (self.values, self.locations, self.weights))
        return Descriptors(*cut, np.minimum(self.counts, count))

    def dense(self) -> np.ndarray:
        """The values as numbers: [N, n, d] float16 or float32; of bits +1 and -1, padding 0."""
        if not self.is_binary:
            return self.values
        signs = np.unpackbits(self.values, axis=-1).astype(np.float16) * 2 - 1
        return np.where(self.mask[..., None], signs, np.float16(0))
