"""What is known of the files of a folder: records of whole ones, and who is at work."""

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
import pathlib
from collections.abc import Callable, Iterator

from etils import epath

from ilias_jax import atomic
from ilias_jax.errors import UserError

STATE_FOLDER = ".download"
_CHUNK = 1 << 20  # bytes


@dataclasses.dataclass(frozen=True)
class Record:
    """A file that was found whole.

    Attributes:
        size: in bytes.
        mtime_ns: modification time in nanoseconds since 1970.
        sha256: digest in lower-case hex.
        published: whether a published digest was there to compare it with.
        url: where it came from.
    """

    size: int
    mtime_ns: int
    sha256: str
    published: bool
    url: str

    def fits(self, status: os.stat_result) -> bool:
        """Whether a file is still as it was when the record was written."""
        return (self.size, self.mtime_ns) == (status.st_size, status.st_mtime_ns)


@contextlib.contextmanager
def on_disk(path: pathlib.Path) -> Iterator[None]:
    """Turns failures of the disk into a message; they concern the whole run."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{path}: {error.strerror or error}; mend that and run the same command again"
        ) from error


def write_json(path: pathlib.Path, value: dict[str, object]) -> None:
    """Writes a small file whole or not at all."""
    with on_disk(path):
        atomic.write_bytes(epath.Path(path), json.dumps(value, indent=1).encode() + b"\n")


def read_json(path: pathlib.Path) -> dict[str, object]:
    """Reads a small file; empty if it is missing or damaged, which costs a check, not a fetch."""
    try:
        value = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def digest(path: pathlib.Path, advance: Callable[[int], None] = lambda count: None) -> str:
    """sha256 of a file in hex.

    Args:
        path: the file.
        advance: is told the number of bytes after every piece.
    """
    found = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(_CHUNK):
            found.update(chunk)
            advance(len(chunk))
    return found.hexdigest()


class Records:
    """Records of the files below a root, one small file each in `<root>/.download/`."""

    def __init__(self, root: pathlib.Path) -> None:
        self._root = root

    def _path(self, name: str) -> pathlib.Path:
        return self._root / STATE_FOLDER / f"{name}.json"

    def get(self, name: str) -> Record | None:
        """The record of a file, None if there is none or it is damaged."""
        value = read_json(self._path(name))
        fields = {field.name: field.type for field in dataclasses.fields(Record)}
        if set(value) != set(fields) or any(
            type(value[field]) is not kind for field, kind in fields.items()
        ):
            return None
        return Record(**value)  # type: ignore[arg-type]  # checked above

    def put(self, name: str, sha256: str, published: bool, url: str) -> Record:
        """Writes the record of a file that was found whole."""
        status = (self._root / name).stat()
        record = Record(status.st_size, status.st_mtime_ns, sha256, published, url)
        write_json(self._path(name), dataclasses.asdict(record))
        return record


@contextlib.contextmanager
def locked(root: pathlib.Path, wait: Callable[[str], None] | None = None) -> Iterator[None]:
    """Keeps other processes from downloading into the same folder.

    Args:
        root: the folder.
        wait: is told that another process does so already, which is then waited for.

    Raises:
        UserError: one does so already and `wait` is None, or the folder cannot be made.
    """
    path = root / STATE_FOLDER / "lock"
    with on_disk(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+b")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            owner = file.read().decode("ascii", "replace").strip()
            busy = f"another download is at work in {root} (process {owner})"
            if wait is None:
                raise UserError(f"{busy}; wait for it or end it") from error
            wait(busy)
            fcntl.flock(file, fcntl.LOCK_EX)
        with on_disk(path):
            file.truncate(0)
            file.write(f"{os.getpid()}\n".encode())
            file.flush()
        yield


def sweep(folder: pathlib.Path, is_ours: Callable[[str], bool]) -> None:
    """Removes temporary files that a killed download has left in a folder.

    Args:
        folder: is looked at, not below; may be missing.
        is_ours: tells by the final name whether a download writes such files.
    """
    if not folder.is_dir():
        return
    for path in sorted(folder.iterdir()):
        name = atomic.final_name(path.name)
        if name is not None and is_ours(name):
            path.unlink(missing_ok=True)
