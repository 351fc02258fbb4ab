"""A file with one byte damaged after the other, which a reader must refuse by name or survive."""

import pathlib
from collections.abc import Callable

from ilias_jax.errors import UserError

_BITS = (0xFF, 0x01, 0x80)


def count_refused(
    content: bytes, folder: pathlib.Path, read: Callable[[pathlib.Path], object], step: int
) -> int:
    """How many damaged copies a reader refuses by UserError; any other error comes through.

    Args:
        content: of the whole file.
        folder: for the copies; each has a name of its own, as a reader may map a file.
        read: the reader.
        step: every so many bytes are damaged.
    """
    data, refused = bytearray(content), 0
    for place in range(0, len(data), step):
        bits = _BITS[place % len(_BITS)]
        data[place] ^= bits
        path = folder / f"{place}.pth"
        path.write_bytes(data)
        try:
            read(path)
        except UserError:
            refused += 1
        data[place] ^= bits
    return refused
