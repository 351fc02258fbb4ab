"""Tells whether another run works in a data folder, and removes what killed runs left there."""

import contextlib
import fcntl
import os
import pathlib
import shutil
from collections.abc import Iterator, Sequence

from ilias_jax import atomic


class RunLock:
    """A lock on a folder that the system releases when its process ends, however it ends."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @contextlib.contextmanager
    def alone(self) -> Iterator[bool]:
        """Yields whether no other run is in the folder; if so none can come in meanwhile."""
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            alone = True
        except OSError:  # another run, or a file system without locks: nobody can tell
            alone = False
        try:
            yield alone
        finally:
            _share(self._descriptor)


def _share(descriptor: int) -> None:
    """Holds the lock together with other runs; without locks nobody is ever alone."""
    with contextlib.suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_SH)


@contextlib.contextmanager
def enter(folder: pathlib.Path) -> Iterator[RunLock]:
    """Marks a folder as worked in; waits for a run that wants it for itself for a moment."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        _share(descriptor)
        yield RunLock(descriptor)
    finally:
        os.close(descriptor)


def remove_temporary(folders: Sequence[pathlib.Path]) -> None:
    """Removes temporary files and folders; only for a run that is alone."""
    for folder in folders:
        for path in folder.glob(".*.tmp"):
            if atomic.final_name(path.name) is None:
                continue
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
