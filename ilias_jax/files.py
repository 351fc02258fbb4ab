"""Files: written whole or not at all, locked while they are made, and hashed."""

import contextlib
import errno
import hashlib
import io
import json
import logging
import math
import os
import pathlib
import re
import shutil
import stat
import time
import uuid
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import filelock
import numpy as np
from etils import epath

from ilias_jax.errors import UserError

LOCK_POLL_S = 1.0  # seconds between looks at what another process has locked
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
FULL = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)  # where a file is copied they name its source
_TEMPORARY = re.compile(r"\.(.+)\.[0-9a-f]{32}\.tmp")
_PACKED = {
    b"\x1f\x8b": "a file packed with gzip",
    b"BZh": "a file packed with bzip2",
    b"\xfd7zXZ": "a file packed with xz",
    b"\x28\xb5\x2f\xfd": "a file packed with zstd",
    b"PK\x03\x04": "a zip archive",
}
ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, RuntimeError)  # encrypted ones are the last
_NPY_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
_MAX_RATIO, _SMALL = 100, 1 << 26  # that numbers are compressed by, beyond so many bytes
_HEAD, _TAIL = 1 << 16, 1 << 20  # bytes that `head_and_tail` hashes


def bundled_folder() -> pathlib.Path:
    """The folder that `data/README.md` describes, in a checkout or an installed package."""
    installed = pathlib.Path(__file__).parent / "data"
    return installed if installed.exists() else pathlib.Path(__file__).parents[1] / "data"


def final_name(name: str) -> str | None:
    """What a temporary file of this name was to become; None for a name of another kind."""
    match = _TEMPORARY.fullmatch(name)
    return match[1] if match else None


@contextlib.contextmanager
def reading(path: epath.PathLike) -> Iterator[epath.Path]:
    """Yields a user's file to read; a UserError names it if it is none or cannot be read.

    Pipes and devices are none: their size is unknown, and some never end.
    """
    path = epath.Path(path)
    try:
        if "://" not in os.fspath(path) and not stat.S_ISREG(mode := os.stat(path).st_mode):
            found = ": is a folder" if stat.S_ISDIR(mode) else " is no file"
            raise UserError(f"{path}{found}; a file of known size is expected here")
        yield path
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file") from error
    except OSError as error:
        if error.errno is None:  # of a library that reads formats, not of the system
            raise
        raise UserError(f"{path} cannot be read ({error.strerror})") from error


def packed_as(start: bytes) -> str | None:
    """What a file was packed with, by its first bytes; None for what is known as no archive."""
    return next((name for magic, name in _PACKED.items() if start.startswith(magic)), None)


def read_bytes(path: epath.PathLike) -> bytes:
    """All bytes of a user's file; errors are those of `reading`."""
    with reading(path) as file:
        return bytes(file.read_bytes())


def read_json(path: epath.PathLike, expected: str) -> Any:
    """The value of a user's JSON file; `expected` says at the end of messages what it should be.

    Raises:
        UserError: as `reading`, or it is no JSON (line and column) or nested too deeply.
    """
    return parse_json(read_bytes(path), f"{path}", expected)


def parse_json(data: bytes | str, place: str, expected: str, **hooks: Any) -> Any:
    """The value of JSON text from a user's file at `place`; `hooks` are those of `json.loads`."""
    try:
        return json.loads(data, **hooks)
    except json.JSONDecodeError as error:
        cut = error.pos >= len(error.doc.rstrip()) or error.msg.startswith("Unterminated")
        where = f"{place}, line {error.lineno}, column {error.colno}"
        ends = "; the file ends too early" if cut else ""
        raise UserError(f"{where}: broken JSON ({error.msg}){ends}; {expected}") from error
    except RecursionError as error:
        raise UserError(f"{place}: JSON that is nested too deeply; {expected}") from error
    except (OverflowError, ValueError) as error:  # another encoding, a number of 5000 digits
        raise UserError(f"{place}: broken JSON ({error}); {expected}") from error


def read_npz(path: epath.PathLike) -> dict[str, np.ndarray]:
    """The arrays of a user's npz file; nothing that is pickled is read.

    Raises:
        ValueError: it is no npz, is damaged, an array claims more bytes than it has (numpy takes
            the memory before it reads), or it unpacks to 100 times its size.
        UserError: as `reading`.
    """
    with reading(path) as found, found.open("rb") as file:
        try:
            with zipfile.ZipFile(file) as archive:
                _check_ratio(archive, file.seek(0, os.SEEK_END))
                for member in archive.infolist():
                    if member.filename.endswith(".npy"):
                        _check_claim(archive, member)
            file.seek(0)
            with np.load(file, allow_pickle=False) as arrays:
                return dict(arrays)
        except (EOFError, OverflowError, *ZIP_ERRORS) as error:
            raise ValueError(str(error)) from error


def write_npz(path: epath.Path, **arrays: np.ndarray) -> None:
    """Writes arrays of these names, whole or not at all."""
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    write_bytes(path, buffer.getvalue())


def _check_ratio(archive: zipfile.ZipFile, size: int) -> None:
    unpacked = sum(member.file_size for member in archive.infolist())
    if unpacked > max(_SMALL, _MAX_RATIO * size):
        tight = "no file of numbers is packed so tightly"
        raise ValueError(f"it unpacks to {unpacked:,} bytes; {tight}")


def _check_claim(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> None:
    with archive.open(member) as head:
        version = np.lib.format.read_magic(head)
        if version not in _NPY_HEADERS:
            raise ValueError(f"{member.filename} is npy of version {version}")
        try:
            shape, _, dtype = _NPY_HEADERS[version](head)
        except ValueError as error:  # whose text may name an object's address
            raise ValueError(f"{member.filename} has no header of npy") from error
    if math.prod(shape) * dtype.itemsize > member.file_size:
        claim = f"{dtype} {shape}, and has {member.file_size:,} bytes"
        raise ValueError(f"{member.filename} claims to be {claim}")


@contextlib.contextmanager
def writing(path: epath.PathLike, *others: epath.PathLike) -> Iterator[None]:
    """Names the path, in a UserError, where the system does not take what is written to it.

    Errors that name another file than these and their folders are of one that is read meanwhile.
    """
    try:
        yield
    except OSError as error:
        names = [None, *map(os.fspath, (path, *others))]
        folders = [*map(os.fspath, epath.Path(path).parents)]
        if error.errno not in FULL and (
            error.errno is None or error.filename not in names + folders
        ):
            raise
        at = f": {error.filename}" if error.filename in folders else ""
        reason = f"{error.strerror}{at}"
        raise UserError(
            f"{path} cannot be written ({reason}); mend that and run the same command again"
        ) from error


@contextlib.contextmanager
def replacing(path: epath.Path) -> Iterator[epath.Path]:
    """Yields a temporary path to write; it becomes `path` on a clean exit, and goes otherwise.

    The name is new every time, so that two processes may write the same file. Missing folders are
    made; an older file is replaced, and where a link stands, what it points to. A UserError names
    the path if the system does not take it, or if it is a folder, a device or a pipe.
    """
    target = _written(path, f"{path}")
    temporary = target.parent / f".{target.name}.{uuid.uuid4().hex}.tmp"
    with writing(path, target, temporary):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)


def _written(path: epath.Path, name: str) -> epath.Path:
    """The file that a path or a link stands for; UserError, with the name, for one that is none."""
    if "://" in os.fspath(path):
        return path
    target = epath.Path(os.path.realpath(path)) if os.path.islink(path) else path
    try:
        found = os.stat(path)  # not of the target: /dev/stdout may be a pipe, which has no path
    except (FileNotFoundError, NotADirectoryError):
        return target
    except OSError as error:
        raise UserError(f"{name} cannot be written ({error.strerror})") from error
    if stat.S_ISDIR(found.st_mode):
        raise UserError(f"{name} is a folder; name a file")
    if not stat.S_ISREG(found.st_mode) or _is_standard_stream(found):
        raise UserError(
            f"{name} is a device, a pipe or what this program prints to, which no file can "
            "replace; name a file"
        )
    return target


def _is_standard_stream(found: os.stat_result) -> bool:
    """Whether it is what standard input, output or errors are: /dev/stdout may be any file."""
    for descriptor in range(3):
        with contextlib.suppress(OSError):  # it is closed
            if os.path.samestat(found, os.fstat(descriptor)):
                return True
    return False


def write_bytes(path: epath.Path, data: bytes) -> None:
    """Writes a file whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def check_output(
    path: epath.PathLike, inputs: Iterable[epath.PathLike] = (), flag: str = "--output"
) -> None:
    """Raises UserError unless a file can be written that is no input; for before all reading.

    Args:
        path: of the file to be.
        inputs: files that will be read, and folders of which all files may be.
        flag: that named the path.
    """
    path = epath.Path(path)
    target = _written(path, f"{flag} {path}")
    places = {_identity(place) for place in (target, *_absolute(target).parents)} - {None}
    for source in inputs:
        if _identity(source) in places:
            raise UserError(f"{flag} {path} would write over what is read, {source}; name another")
    check_writable(target.parent, flag)


def _absolute(path: epath.Path) -> epath.Path:
    return path if "://" in os.fspath(path) else epath.Path(os.path.realpath(path))


def _identity(path: epath.PathLike) -> tuple[int, int] | str | None:
    """Equal for two names of one file; None for no file."""
    if "://" in os.fspath(path):
        return os.fspath(path)
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def check_writable(folder: epath.Path, flag: str) -> None:
    """Raises UserError, with the flag, unless files can be made in a folder; leaves nothing."""
    try:
        probe = _nearest(folder) / f".{uuid.uuid4().hex}.tmp"
        probe.write_text("")
        probe.unlink()
    except (OSError, ImportError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"folder {folder} cannot be written ({reason}); name another with {flag}"
        ) from error


def _nearest(folder: epath.Path) -> epath.Path:
    """The folder, or what is there of the path to it; buckets have no folders to be made."""
    while "://" not in os.fspath(folder):
        try:
            os.lstat(folder)
            break
        except (FileNotFoundError, NotADirectoryError):
            folder = folder.parent  # at last "." or "/"
    return folder


def sha256(path: epath.PathLike) -> str:
    """Hexadecimal sha256 of a file of any size."""
    with reading(path) as whole, whole.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def head_and_tail(path: epath.Path) -> str:
    """sha256 of a file's first 64 KiB and last MiB: tells large files apart at little cost.

    An ArrayRecord file ends with the offsets of all its records, so other images give another end.
    """
    with reading(path), path.open("rb") as file:
        size = path.stat().length
        digest = hashlib.sha256(file.read(_HEAD))
        file.seek(max(0, size - _TAIL))
        digest.update(file.read(_TAIL))
    return digest.hexdigest()


class Lock:
    """The right to write one file; the system gives it back when the process ends, however it ends.

    Args:
        held: the lock of a file beside it; None where nothing can be locked.
    """

    def __init__(self, held: filelock.BaseFileLock | None = None) -> None:
        self._held = held

    def close(self) -> None:
        """Gives the lock back and removes its file; a second call does nothing."""
        if self._held is None:
            return
        # While it is held, so that nobody else's goes: filelock takes no lock on a removed file.
        pathlib.Path(self._held.lock_file).unlink(missing_ok=True)
        self._held.release()
        self._held = None


def try_lock(path: epath.Path) -> Lock | None:
    """Locks a file or folder that is to be made, and removes what a killed process has left of it.

    Args:
        path: of the file. Buckets have no locks: there the lock is always given.

    Returns:
        None if another process has it.

    Raises:
        UserError: the folder cannot be written.
    """
    if "://" in os.fspath(path):
        return Lock()
    # A soft lock, which filelock would fall back to, outlives a killed process.
    lock = path.parent / f".{path.name}.lock"
    held = filelock.FileLock(lock, thread_local=False, fallback_to_soft=False)
    with writing(path, lock):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            held.acquire(blocking=False)
        except filelock.Timeout:
            return None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            logging.warning("%s: no locks here (%s); run one process at a time", path, error)
            return Lock()
    for left in path.parent.glob(f".{path.name}.*.tmp"):  # only the lock's holder writes any
        if final_name(left.name) == path.name:
            shutil.rmtree(left) if left.is_dir() else left.unlink(missing_ok=True)
    return Lock(held)


def lock_unless_done(path: epath.Path, is_done: Callable[[], bool]) -> Lock | None:
    """Locks a file; while another process has it, waits for it to be done.

    Returns:
        None if the file is done.
    """
    while not is_done():
        if held := try_lock(path):
            if not is_done():  # it may have been finished just before
                return held
            held.close()
            return None
        time.sleep(LOCK_POLL_S)
    return None
