"""Claims on files that are yet to be written: of several processes, one at a time works on each.

A claim is a lock on a file beside the one that is to be written. The system gives it back when the
process ends, however it ends, so that a killed run is simply run again.
"""

import errno
import fcntl
import logging
import os
import time
from collections.abc import Callable

from etils import epath

from ilias_jax import atomic

SECONDS_BETWEEN_LOOKS = 1.0  # at what another process has claimed
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


class Claim:
    """The right to write one file.

    Args:
        lock: the lock's file; None where nothing can be locked.
        descriptor: of the open, locked file.
    """

    def __init__(self, lock: epath.Path | None = None, descriptor: int = -1) -> None:
        self._lock, self._descriptor = lock, descriptor

    def close(self) -> None:
        """Gives the claim back; a second call does nothing."""
        if self._lock is None:
            return
        self._lock.unlink(missing_ok=True)  # while it is held, so that nobody else's goes
        os.close(self._descriptor)
        self._lock = None


def claim(path: epath.Path) -> Claim | None:
    """Claims a file, and removes what a killed process has left of it.

    Args:
        path: of the file to be written. Buckets have no locks: there the claim is always given.

    Returns:
        None if another process has it.

    Raises:
        OSError: the folder cannot be written.
    """
    if "://" in os.fspath(path):
        return Claim()
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = path.parent / f".{path.name}.lock"
    while True:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        except OSError as error:
            os.close(descriptor)
            if error.errno not in _NO_LOCKS:
                raise
            logging.warning("%s: no locks here (%s); run one process at a time", lock, error)
            return Claim()
        if _is_file(lock, descriptor):
            break
        os.close(descriptor)  # its holder removed it between the two calls
    _remove_unfinished(path)
    return Claim(lock, descriptor)


def claim_unless_done(path: epath.Path, is_done: Callable[[], bool]) -> Claim | None:
    """Claims a file; while another process has it, waits for it to be done.

    Returns:
        None if the file is done.
    """
    while not is_done():
        if held := claim(path):
            if not is_done():  # it may have been finished just before
                return held
            held.close()
            return None
        time.sleep(SECONDS_BETWEEN_LOOKS)
    return None


def _is_file(path: epath.Path, descriptor: int) -> bool:
    """Whether an open file is still the one of that name."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _remove_unfinished(path: epath.Path) -> None:
    """Removes temporary files that were to become `path`; only its claim's holder writes any."""
    for left in path.parent.glob(f".{path.name}.*.tmp"):
        if atomic.final_name(left.name) == path.name:
            left.unlink(missing_ok=True)
