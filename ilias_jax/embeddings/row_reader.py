"""Rows of embedding files, read straight into arrays."""

import contextlib
from typing import IO, Any

import numpy as np
from etils import epath

from ilias_jax.embeddings.header import Header, open_file
from ilias_jax.errors import UserError
from ilias_jax.gather import runs

# Rows between two wanted ones are read along where that is cheaper than another read.
_GAP_LOCAL, _GAP_REMOTE = 2**14, 2**20
_RUN_BYTES = 2**22  # of one read with gaps: what a scratch array holds


def read_into(file: IO[bytes], start: int, target: memoryview, path: epath.Path) -> None:
    """Fills `target` with a file's bytes from `start` on.

    Args:
        file: open for reading; files of buckets may have no `readinto`.
        start: a place in the file.
        target: writable bytes.
        path: of the file, for the message.

    Raises:
        UserError: the file ends before.
    """
    file.seek(start)
    readinto, done = getattr(file, "readinto", None), 0
    while done < len(target):
        if readinto is not None:
            count = readinto(target[done:])
        else:
            data = file.read(len(target) - done)
            count = len(data)
            target[done : done + count] = data
        if not count:
            raise UserError(
                f"{path} is cut short: it ends at {start + done:,} of {start + len(target):,} "
                "bytes; remove it and run again, or copy it again"
            )
        done += count


class RowReader(contextlib.AbstractContextManager["RowReader"]):
    """Reads rows of one file after another; the last file stays open until the next is asked for.

    Attributes:
        header: of the open file, None at first.
    """

    def __init__(self) -> None:
        self.header: Header | None = None
        self._file: IO[bytes] | None = None

    def __exit__(self, *_: Any) -> None:
        """Closes the open file."""
        if self._file is not None:
            self._file.close()
        self._file = self.header = None

    def fill(self, target: np.ndarray, header: Header, first: int) -> None:
        """Reads neighbouring rows.

        Args:
            target: [n, D] receives rows first..first + n - 1; of the file's dtype or a wider one.
            header: of the file.
            first: row of the file.
        """
        file = self._open(header)
        if not target.size:
            return
        same = target.dtype == header.dtype and target.flags.c_contiguous
        rows = target if same else np.empty(target.shape, header.dtype)
        data = rows.reshape(-1).view(np.uint8).data
        read_into(file, header.vectors[0] + first * header.row_bytes, data, header.path)
        if not same:
            target[:] = rows

    def pick(self, target: np.ndarray, header: Header, places: np.ndarray) -> None:
        """Reads rows at any places; those that lie close in one go.

        Args:
            target: [n, D] receives the rows; of the file's dtype or a wider one.
            header: of the file.
            places: [n] rows of the file, rising.
        """
        row_bytes = max(1, header.row_bytes)
        gap = _GAP_REMOTE if "://" in str(header.path) else _GAP_LOCAL
        most = max(1, _RUN_BYTES // row_bytes)
        scratch = np.empty((0, header.dim), header.dtype)
        for run in runs(places, 1 + gap // row_bytes, most):
            first, last = int(places[run.start]), int(places[run.stop - 1])
            if last - first == run.stop - run.start - 1:
                self.fill(target[run], header, first)
                continue
            if not len(scratch):
                scratch = np.empty((most, header.dim), header.dtype)
            span = scratch[: last - first + 1]
            self.fill(span, header, first)
            target[run] = span[places[run] - first]

    def _open(self, header: Header) -> IO[bytes]:
        """The open file of a header."""
        if self._file is None or self.header is not header:
            self.__exit__()
            self._file, self.header = open_file(header.path), header
        return self._file
