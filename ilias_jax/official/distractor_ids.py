"""The official list of distractors, 100 million lines: read as a stream."""

import gzip
import zlib

from etils import epath

from ilias_jax.errors import UserError

_BLOCK = 2**24  # bytes of text at a time


def absent_distractors(path: epath.PathLike, ids: set[str]) -> tuple[set[str], int]:
    """Looks ids up in `distractor_ids.txt.gz`.

    Only `ids` and a block of lines are in memory. 100 million lines take a minute or two.

    Returns:
        The ids that are not in the file, and the number of ids in the file.

    Raises:
        UserError: there is no such file, or it is not whole.
    """
    path = epath.Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file; checking distractors needs it: download it")
    absent = {name.encode("utf-8", "surrogatepass") for name in ids}
    number, rest = 0, b""
    try:
        with path.open("rb") as raw, gzip.open(raw) as text:
            while block := text.read(_BLOCK):
                *lines, rest = (rest + block.replace(b"\r", b"")).split(b"\n")
                absent.difference_update(lines)
                number += len(lines) - lines.count(b"")
    except (EOFError, OSError, zlib.error) as error:
        raise UserError(f"{path}: not a whole gzip file ({error}); download it again") from error
    if rest.strip():
        absent.discard(rest.strip())
        number += 1
    return {name.decode("utf-8", "surrogatepass") for name in absent}, number
