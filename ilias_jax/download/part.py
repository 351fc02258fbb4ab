"""A file that is not whole yet: `<name>.part`, and in `<name>.part.json` what it is a part of.

The order of writes matters, because the process may be killed between any two: bytes of one
version of a file must never lie beside the marks of another.
"""

import dataclasses
import hashlib
import os
import pathlib
from typing import BinaryIO

from ilias_jax.download import state

_CHUNK = 1 << 20  # bytes


@dataclasses.dataclass(frozen=True)
class Origin:
    """What a server said of the file that a part belongs to.

    Attributes:
        url: that was asked, before redirects.
        etag: strong entity tag, or None.
        last_modified: as the server wrote it, or None.
        size: of the whole file in bytes, or None.
    """

    url: str
    etag: str | None
    last_modified: str | None
    size: int | None

    def validator(self) -> str | None:
        """What to send as If-Range, or None."""
        return self.etag or self.last_modified


def _read_origin(path: pathlib.Path) -> Origin | None:
    value = state.read_json(path)
    if set(value) != {field.name for field in dataclasses.fields(Origin)}:
        return None
    texts = (value["url"], value["etag"], value["last_modified"])
    if not isinstance(value["url"], str) or not isinstance(value["size"], int | None):
        return None
    if not all(isinstance(text, str | None) for text in texts):
        return None
    return Origin(**value)  # type: ignore[arg-type]  # checked above


class Part:
    """The bytes of one file that are here, hashed.

    Attributes:
        target: the final path.
        length: bytes that are here.
        origin: what they are a part of; None when nothing is here.
    """

    def __init__(self, target: pathlib.Path, url: str, sha256: str | None) -> None:
        self.target = target
        self._path = target.with_name(target.name + ".part")
        self._origin_path = target.with_name(target.name + ".part.json")
        self._url, self._sha256 = url, sha256
        self._file: BinaryIO | None = None
        self._hash = hashlib.sha256()
        self.origin: Origin | None = None
        self.length = 0

    def resumable(self) -> int:
        """Bytes on the disk that a request can go on from; reads no more than their size.

        Without a validator of the same address only a published digest can tell whether the bytes
        before and after a break are of one file.
        """
        origin = _read_origin(self._origin_path)
        if origin is None or not self._path.is_file():
            return 0
        if not self._sha256 and (origin.url != self._url or not origin.validator()):
            return 0
        length = self._path.stat().st_size
        return length if origin.size is None or length <= origin.size else 0

    def open(self) -> None:
        """Takes up what can be resumed, hashing it, and drops the rest."""
        with state.on_disk(self._path):
            length = self.resumable()
            self.target.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("r+b" if length else "w+b", buffering=0)
            while length and (chunk := self._file.read(_CHUNK)):
                self._hash.update(chunk)
                self.length += len(chunk)
        self.origin = _read_origin(self._origin_path) if length else None

    def restart(self, origin: Origin | None) -> None:
        """Drops all bytes; those to come are of `origin`."""
        assert self._file is not None
        with state.on_disk(self._path):
            self._origin_path.unlink(missing_ok=True)
            self._file.seek(0)
            self._file.truncate()
            os.fsync(self._file.fileno())
        self._hash, self.length, self.origin = hashlib.sha256(), 0, origin
        if origin is not None:
            state.write_json(self._origin_path, dataclasses.asdict(origin))

    def append(self, data: bytes) -> None:
        """Adds bytes at the end."""
        assert self._file is not None
        with state.on_disk(self._path):
            view = memoryview(data)
            while view:  # an unbuffered write may take less than it is given
                view = view[self._file.write(view) :]
        self._hash.update(data)
        self.length += len(data)

    def digest(self) -> str:
        """sha256 of all bytes so far, in hex."""
        return self._hash.hexdigest()

    @property
    def path(self) -> pathlib.Path:
        """Where the bytes lie."""
        return self._path

    def close(self) -> None:
        """Leaves what is here for another time; an empty part leaves nothing."""
        if self._file is None:
            return
        size = os.fstat(self._file.fileno()).st_size  # may be more than was counted, on a full disk
        self._file.close()
        self._file = None
        if size == 0:
            remove_leftovers(self.target)

    def finish(self) -> None:
        """Puts the whole file at its place, on the disk for good."""
        assert self._file is not None
        with state.on_disk(self.target):
            os.fsync(self._file.fileno())
            self._file.close()
            self._file = None
            self._path.replace(self.target)
            folder = os.open(self.target.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
            remove_leftovers(self.target)


def remove_leftovers(target: pathlib.Path) -> None:
    """Removes the part of a file that is there whole or of which nothing is there."""
    with state.on_disk(target):
        for ending in (".part.json", ".part"):
            target.with_name(target.name + ending).unlink(missing_ok=True)
