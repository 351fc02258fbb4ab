"""The official lists of distractors, kept as hashes: `distractor_ids.txt.gz` and the mini list.

The lists have 100 and 5 million lines. A list is read in blocks and kept as a sorted array of
Python's 64-bit string hashes (SipHash, with a key of this process): 8 bytes an id, so 40 MB for
mini and 800 MB for full; a set of mini's strings takes about 600 MB. Among N ids, two share a
hash with probability N**2 / 2**65: 7e-7 for mini, 3e-4 for full. Where ids have to be named in an
error, the file is read again.
"""

import dataclasses
import gzip
import hashlib
import zlib
from collections.abc import Iterator, Sequence

import numpy as np
from etils import epath

from ilias_jax.errors import UserError

MINI = "mini_ilias_yfcc100m_ids.txt"
FULL = "distractor_ids.txt.gz"
# Tars of the Hugging Face copy hold the same images under the same keys in other tars.
HUGGING_FACE_TAR = "mini_ilias_yfcc100m-"
_BLOCK = 1 << 22  # bytes read at a time
_LONGEST = 1 << 16  # bytes of a line
_AGAIN = "download it again"


def key_of(image_id: str) -> str:
    """The WebDataset key of `<tar file name>/<key>`; a key alone is returned as it is."""
    tar, slash, key = image_id.partition("/")
    return key if slash and tar.endswith(".tar") else image_id


def hash_ids(ids: Sequence[str]) -> np.ndarray:
    """[N] int64 hashes, good within this process alone."""
    return np.fromiter(map(hash, ids), np.int64, len(ids))


@dataclasses.dataclass(frozen=True, eq=False)
class IdList:
    """A list of N distractors.

    Attributes:
        path: of the file.
        by_key: whether only keys are compared, because the shards were made of tars with other
            names than the list's.
        hashes: [N] int64, sorted: of the lines, or of their keys.
        num_whole: lines that are full ids, `<tar file name>/<key>`; the others are keys.
        digest: sha256 of the lines in file order.
    """

    path: epath.Path
    by_key: bool
    hashes: np.ndarray
    num_whole: int
    digest: str

    def __len__(self) -> int:
        """N."""
        return len(self.hashes)

    def __contains__(self, image_id: str) -> bool:
        """Whether the list holds an image, by its full id or by its key."""
        return bool(self.find([image_id])[0] >= 0)

    def find(self, ids: Sequence[str]) -> np.ndarray:
        """Looks images up by their full ids `<tar file name>/<key>`.

        Args:
            ids: M full ids.

        Returns:
            [M] int64 places in `hashes`, -1 for images that are not on the list.
        """
        found = np.full(len(ids), -1, np.int64)
        if self.num_whole and not self.by_key:
            found = self._places(ids)
        if self.by_key or self.num_whole < len(self):
            found = np.maximum(found, self._places([key_of(image_id) for image_id in ids]))
        return found

    def _places(self, names: Sequence[str]) -> np.ndarray:
        wanted = hash_ids(names)
        places = np.empty(len(wanted), np.int64)
        order = np.argsort(wanted)  # in their order they are found several times as fast
        places[order] = np.searchsorted(self.hashes, wanted[order])
        places[places == len(self)] = 0
        return np.where(self.hashes[places] == wanted, places, -1)

    def names(self, places: np.ndarray, limit: int) -> list[str]:
        """The first `limit` lines, in file order, of those at `places`; reads the file again."""
        found: list[str] = []
        for _, lines in _blocks(self.path):
            hashes = hash_ids(_compared(lines, self.by_key))
            there = np.isin(hashes, self.hashes[places])
            found += [lines[i] for i in np.flatnonzero(there)]
            if len(found) >= limit:
                break
        return found[:limit]


def read_id_list(path: epath.Path, *, by_key: bool = False, whole_only: bool = False) -> IdList:
    """Reads a list of distractors, a full id or a key a line; empty lines are skipped.

    Args:
        path: text, or gzip by its suffix `.gz`.
        by_key: compare keys only; see `IdList`.
        whole_only: refuse keys without a tar, as `distractor_ids.txt.gz` has none.

    Raises:
        UserError: the file is missing, damaged or empty, or a line is no id or repeated; names
            file and line.
    """
    parts, num_whole, digest = [], 0, hashlib.sha256()
    for first, lines in _blocks(path):
        is_whole = [".tar/" in line for line in lines]
        if whole_only and not all(is_whole):
            number = is_whole.index(False)
            raise UserError(
                f"{path}, line {first + number}: {lines[number]!r} is no distractor's id; "
                f"expected <tar file name>/<key>; {_AGAIN}"
            )
        num_whole += sum(is_whole)
        digest.update("\n".join([*lines, ""]).encode())
        parts.append(hash_ids(_compared(lines, by_key)))
    if not parts:
        raise UserError(f"{path}: no id in the file; expected an id a line; {_AGAIN}")
    hashes = _join(parts)
    hashes.sort()
    repeated = hashes[1:][hashes[1:] == hashes[:-1]]
    if len(repeated):
        _refuse_repeated(path, by_key, repeated)
    return IdList(path, by_key, hashes, num_whole, digest.hexdigest())


def _compared(lines: list[str], by_key: bool) -> list[str]:
    return [key_of(line) for line in lines] if by_key else lines


def _join(parts: list[np.ndarray]) -> np.ndarray:
    """Concatenates and empties `parts`, so that memory never holds all of it twice."""
    whole = np.empty(sum(map(len, parts)), np.int64)
    end = len(whole)
    while parts:
        part = parts.pop()
        whole[end - len(part) : end] = part
        end -= len(part)
    return whole


def _refuse_repeated(path: epath.Path, by_key: bool, hashes: np.ndarray) -> None:
    """Raises UserError if a hash that two lines share is one of the same id."""
    places: dict[str, int] = {}
    for first, lines in _blocks(path):
        names = _compared(lines, by_key)
        for i in np.flatnonzero(np.isin(hash_ids(names), hashes)):
            earlier = places.setdefault(names[i], first + int(i))
            if earlier != first + i:
                what = "the key of " if names[i] != lines[i] else ""
                raise UserError(
                    f"{path}, line {first + i}: {what}{lines[i]!r} is repeated, first at line "
                    f"{earlier}; {_AGAIN}"
                )


def _blocks(path: epath.Path) -> Iterator[tuple[int, list[str]]]:
    """Yields (number of the first line, lines) block by block.

    Empty lines are skipped; a block that has one is yielded line by line, to keep the numbers.
    """
    number = 1
    for data in _whole_lines(path):
        try:
            text = data.decode()
        except UnicodeDecodeError as error:
            bad = number + data[: error.start].count(b"\n")
            raise UserError(f"{path}, line {bad}: not UTF-8 text ({error}); {_AGAIN}") from error
        lines = text.split()
        count = text.count("\n")
        if "\0" not in text and "\n".join([*lines, ""]) == text:
            yield number, lines
        else:
            for i, line in enumerate(text.split("\n")[:count]):
                if line.strip():
                    yield number + i, [_one_id(path, number + i, line)]
        number += count


def _one_id(path: epath.Path, number: int, line: str) -> str:
    """A line without the spaces around it, after a check that it can be an id."""
    name = line.strip()
    if "\0" in name or len(name.split()) != 1:
        shown = repr(name if len(name) < 100 else name[:100] + "...")
        raise UserError(f"{path}, line {number}: {shown} is no id; expected one a line; {_AGAIN}")
    return name


def _whole_lines(path: epath.Path) -> Iterator[bytes]:
    """Yields a file in pieces that end with a line."""
    if not path.exists():
        raise UserError(f"{path}: no such file; expected the official ILIAS layout (download it)")
    number, rest = 1, b""
    try:
        with path.open("rb") as raw:
            file = gzip.GzipFile(fileobj=raw) if path.suffix == ".gz" else raw
            while data := file.read(_BLOCK):
                ready, newline, rest = (rest + data).rpartition(b"\n")
                number += ready.count(b"\n") + bool(newline)
                if len(rest) > _LONGEST:
                    raise UserError(f"{path}, line {number}: too long for an id; {_AGAIN}")
                yield ready + newline
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{path}, line {number}: damaged gzip ({error}); {_AGAIN}") from error
    if rest:
        yield rest + b"\n"
