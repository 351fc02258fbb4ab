"""Files that are whole or absent: written under a name of their own, then renamed."""

import contextlib
import re
import uuid
from collections.abc import Iterator

from etils import epath

_TEMPORARY = re.compile(r"\.(.+)\.[0-9a-f]{32}\.tmp")


def final_name(name: str) -> str | None:
    """What a temporary file of this name was to become; None for a name of another kind."""
    match = _TEMPORARY.fullmatch(name)
    return match[1] if match else None


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
