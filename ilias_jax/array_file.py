"""One .npz file of plain arrays with a note on where they come from."""

import contextlib
import io
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from etils import epath

from ilias_jax import atomic
from ilias_jax.errors import UserError


def save_arrays(path: epath.PathLike, arrays: Mapping[str, np.ndarray | int], origin: str) -> None:
    """Writes the arrays and `origin`, whole or not at all; an older file is replaced."""
    buffer = io.BytesIO()
    contents: dict[str, Any] = {**arrays, "origin": np.array(origin, dtype=np.str_)}
    np.savez(buffer, **contents)
    atomic.write_bytes(epath.Path(path), buffer.getvalue())


@contextlib.contextmanager
def open_arrays(
    path: epath.PathLike, kind: str, expected: str
) -> Iterator[Mapping[str, np.ndarray]]:
    """The arrays of a file; what is wrong with them, here or inside the block, is a UserError.

    Args:
        path: of the file.
        kind: what the file holds, for messages: "ranking".
        expected: the arrays it should have, for messages.

    Raises:
        UserError: there is no such file, or it is not of the kind.
    """
    path = epath.Path(path)
    if not path.exists():
        raise UserError(f"{path}: no such {kind} file; run the search first")
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as arrays:
            yield arrays
    except (zipfile.BadZipFile, EOFError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{path}: not a {kind} file ({error}); expected an .npz with {expected}: delete it "
            "and run the search again"
        ) from error


def origin_of(arrays: Mapping[str, np.ndarray]) -> str:
    """The note that `save_arrays` was given; empty where there is none."""
    return str(arrays["origin"]) if "origin" in arrays else ""
