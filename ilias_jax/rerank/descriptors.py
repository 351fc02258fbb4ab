"""Local descriptors of images: several vectors an image, each of a place in it."""

import dataclasses
from collections.abc import Sequence
from typing import Literal

import numpy as np

Storage = Literal["float16", "float32", "bits"]
_PLACE = 3  # numbers of a descriptor beside its value: row, column, weight
_LARGEST = 65504.0  # of float16


@dataclasses.dataclass(frozen=True)
class LocalSettings:
    """Where a method's descriptors come from, unless the configuration says otherwise.

    Attributes:
        model: a row of the table of models; empty for the run's own.
        resolution: pixels of the longest side of an image; 0 for the model's own.
        num_descriptors: at most so many of an image.
        filter: of the resize; see `preprocessing.local_patches`.
    """

    model: str = ""
    resolution: int = 0
    num_descriptors: int = 600
    filter: Literal["area_linear", "bicubic"] = "area_linear"


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
        arrays = (self.values, self.locations, self.weights, self.counts)
        values, locations, weights, counts = (array[images] for array in arrays)
        return Descriptors(values, locations, weights, counts)

    def strongest(self, count: int) -> "Descriptors":
        """At most `count` of each image."""
        arrays = (self.values, self.locations, self.weights)
        values, locations, weights = (array[:, :count] for array in arrays)
        return Descriptors(values, locations, weights, np.minimum(self.counts, count))

    def dense(self) -> np.ndarray:
        """The values as numbers: [N, n, d] float16 or float32; of bits +1 and -1, padding 0."""
        if not self.is_binary:
            return self.values
        signs = np.unpackbits(self.values, axis=-1).astype(np.float16) * 2 - 1
        return np.where(self.mask[..., None], signs, np.float16(0))


def concatenated(parts: Sequence[Descriptors]) -> Descriptors:
    """The images of several, all padded to one number."""
    return Descriptors(
        np.concatenate([part.values for part in parts]),
        np.concatenate([part.locations for part in parts]),
        np.concatenate([part.weights for part in parts]),
        np.concatenate([part.counts for part in parts]),
    )


def to_storage(values: np.ndarray, storage: Storage) -> np.ndarray:
    """Values [..., d] float32 as they are stored; of bits [..., d / 8] uint8."""
    return np.packbits(values > 0, axis=-1) if storage == "bits" else values.astype(storage)


def to_rows(found: np.ndarray, count: int, storage: Storage) -> np.ndarray:
    """Descriptors as a file keeps them, a row an image.

    Args:
        found: [N, n (3 + d)] float32; of each descriptor its location, which is -1 for padding, its
            weight and its value.
        count: n.
        storage: of the values; "bits" for their signs, 1 where one is above 0.

    Returns:
        The same in that dtype; for "bits" [N, n (6 + d / 8)] uint8, location and weight as float16.
    """
    parts = found.reshape(len(found), count, -1)
    places = parts[..., :_PLACE].clip(-_LARGEST, _LARGEST)
    values = to_storage(parts[..., _PLACE:], storage)
    if storage == "bits":
        places = np.ascontiguousarray(places, np.float16).view(np.uint8)
    return np.concatenate([places.astype(values.dtype), values], axis=-1).reshape(len(found), -1)


def from_rows(rows: np.ndarray, count: int) -> Descriptors:
    """The descriptors of rows [N, ...] that `to_rows` made."""
    parts = rows.reshape(len(rows), count, -1)
    if rows.dtype == np.uint8:
        size = _PLACE * np.dtype(np.float16).itemsize
        places, values = np.ascontiguousarray(parts[..., :size]).view(np.float16), parts[..., size:]
    else:
        places, values = parts[..., :_PLACE], parts[..., _PLACE:]
    places = places.astype(np.float32)
    real = places[..., 0] >= 0
    places, values = (
        np.where(real[..., None], part, part.dtype.type(0)) for part in (places, values)
    )
    return Descriptors(values, places[..., :2], places[..., 2], real.sum(axis=1, dtype=np.int32))


def mutual_matches(query: Descriptors, image: Descriptors, most: int) -> np.ndarray:
    """Places that match: descriptors of two images that are each other's nearest.

    Args:
        query, image: of one image each.
        most: matches, those of largest inner product.

    Returns:
        [n, 4] float32, n <= most: row and column in the query, row and column in the image, as
        shares, the best match first.
    """
    sides = [side.dense()[0, : side.counts[0]].astype(np.float32) for side in (query, image)]
    if not all(map(len, sides)):
        return np.zeros((0, 4), np.float32)
    products = sides[0] @ sides[1].T
    nearest = products.argmax(axis=1)
    mutual = np.flatnonzero(products.argmax(axis=0)[nearest] == np.arange(len(nearest)))
    order = np.argsort(-products[mutual, nearest[mutual]], kind="stable")[:most]
    kept = mutual[order]
    return np.concatenate([query.locations[0, kept], image.locations[0, nearest[kept]]], axis=1)
