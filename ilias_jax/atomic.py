"""Files that are whole or absent: written under a name of their own, then renamed."""

import contextlib
import uuid
from collections.abc import Iterator

from etils import epath


@contextlib.contextmanager
def replacing(path: epath.Path) -> Iterator[epath.Path]:
    """Yields a temporary path to write; it becomes `path` on a clean exit, and goes otherwise.

    The name is new every time, so two processes that write the same file do not meet. Missing
    folders are made; an older file is replaced.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name}.{uuid.uuid4().hex}.tmp"
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: epath.Path, data: bytes) -> None:
    """Writes a file whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)
