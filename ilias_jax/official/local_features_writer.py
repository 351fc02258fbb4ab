"""Files of local descriptors, written in the layouts of AMES and ELViS; see `local_features`."""

import contextlib
import itertools
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from etils import epath

from ilias_jax.files import replacing
from ilias_jax.official.features import escape, is_local
from ilias_jax.official.local_features import FLAG, PLACE, WEIGHT, Layout
from ilias_jax.rerank.descriptors import Descriptors

if TYPE_CHECKING:
    import h5py


def write_local_features(
    path: epath.Path,
    ids: Sequence[str],
    parts: Descriptors | Iterable[Descriptors],
    layout: Layout | None = None,
) -> None:
    """Writes descriptors of N images with an `index`, whole or not at all.

    Args:
        path: of the file, written under a temporary name and renamed.
        ids: of the N images.
        parts: their descriptors, all at once or one part after the other, padded to one number; a
            part is in memory at a time. Float16 stays float16.
        layout: of the rows; None for "columns" of numbers and "fields" of bits. "bits" drops
            locations and weights, and the padding is what is zero at the end.

    Raises:
        UserError: an id cannot be written so that it reads back, or the file cannot be written.
        ValueError: the parts hold another number of images, or descriptors of another kind.
    """
    import h5py

    names = [escape(name) for name in ids]
    given = iter([parts] if isinstance(parts, Descriptors) else parts)
    first = next(given)
    whole = itertools.chain([first], given)
    with replacing(path) as temporary, contextlib.ExitStack() as stack:
        # A bucket takes bytes in their order alone, and HDF5 goes back.
        scratch = open(temporary, "w+b") if is_local(path) else tempfile.TemporaryFile()  # noqa: SIM115
        file = stack.enter_context(scratch)
        # Through Python: HDF5's own way of writing ends the process on a full disk.
        with h5py.File(file, "w") as written:
            dtype = h5py.string_dtype(encoding="ascii")
            written.create_dataset("index", data=names, shape=(len(names),), dtype=dtype)
            _write(written, len(names), whole, layout or _usual(first))
        if not is_local(path):
            file.seek(0)
            with temporary.open("wb") as target:
                shutil.copyfileobj(file, target)


def _usual(found: Descriptors) -> Layout:
    return "fields" if found.is_binary else "columns"


def _write(
    file: "h5py.File", num_images: int, parts: Iterable[Descriptors], layout: Layout
) -> None:
    features, start = None, 0
    for part in parts:
        rows = _rows(part, layout)
        if features is None:
            shape = (num_images, *rows.shape[1:])
            features = file.create_dataset("features", shape, rows.dtype)
        if start + len(rows) > num_images or rows.dtype != features.dtype:
            raise ValueError(f"more than {num_images} images, or descriptors of two kinds")
        features[start : start + len(rows)] = rows
        start += len(rows)
    if start != num_images:
        raise ValueError(f"{start} images for {num_images} ids")


def _rows(found: Descriptors, layout: Layout) -> np.ndarray:
    """As the file holds them."""
    if layout == "bits":
        return found.values
    places = np.zeros((*found.values.shape[:2], PLACE), np.float32)
    places[..., :2], places[..., WEIGHT] = found.locations, found.weights
    places[..., FLAG] = ~found.mask
    if layout == "columns":
        return np.concatenate([places.astype(found.values.dtype), found.values], axis=2)
    own = found.values.dtype, found.values.shape[2:]
    rows = np.zeros(places.shape[:2], [("descriptor", *own), ("metadata", np.float32, (PLACE,))])
    rows["metadata"], rows["descriptor"] = places, found.values
    return rows
