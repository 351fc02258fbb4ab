"""The official id files: small ones as rows, the lists of distractors as hashes or as a stream.

`distractor_ids.txt.gz` and the mini list have 100 and 5 million lines. A list is read in blocks
and kept as a sorted array of Python's 64-bit string hashes (SipHash, with a key of this process):
8 bytes an id, so 40 MB for mini and 800 MB for full; a set of mini's strings takes about 600 MB.
Among N ids, two share a hash with probability N**2 / 2**65: 7e-7 for mini, 3e-4 for full. Where
ids have to be named in an error, the file is read again.
"""

import codecs
import collections
import dataclasses
import gzip
import hashlib
import io
import zlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from etils import epath

from ilias_jax.errors import UserError, quoted
from ilias_jax.files import read_bytes, reading

_BLOCK = 1 << 22  # bytes read at a time
_LONGEST = 1 << 16  # bytes of a line
_AGAIN = "download it again"


def object_of(image_id: str) -> str:
    """The object of an image or text id: the part before the first "/"; a ValueError without."""
    name, slash, _ = image_id.partition("/")
    if not name or not slash:
        raise ValueError(f"id {quoted(image_id)} has no object; expected <object>/<folder>/<file>")
    return name


def key_of(image_id: str) -> str:
    """The WebDataset key of `<tar file name>/<key>`; a key alone is returned as it is."""
    tar, slash, key = image_id.partition("/")
    return key if slash and tar.endswith(".tar") else image_id


def _require(path: epath.Path) -> epath.Path:
    if not path.exists():
        raise UserError(f"{path}: no such file; expected the official ILIAS layout (download it)")
    return path


def read_text(path: epath.PathLike) -> str:
    """The text of a file without a mark at its start; a UserError if it is missing or no UTF-8."""
    path = _require(epath.Path(path))
    try:
        return io.TextIOWrapper(io.BytesIO(read_bytes(path)), "utf-8-sig").read()
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text ({error}); copy the file again") from error


@dataclasses.dataclass(frozen=True)
class IdRow:
    """One line of an id file: its columns, and `file, line number` for messages."""

    columns: Sequence[str]
    line: str


def read_id_rows(path: epath.PathLike, layout: str = "id,...") -> dict[str, IdRow]:
    """Reads a comma-separated file of core ids as id -> row, in file order; skips empty lines.

    Args:
        path: of the file.
        layout: names of the columns, the id first; "..." at the end allows any others.

    Raises:
        UserError: the file is missing or has no id, or a line breaks the layout or repeats an id.
    """
    rows: dict[str, IdRow] = {}
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        row = IdRow([column.strip() for column in line.split(",")], f"{path}, line {number}")
        if not layout.endswith("...") and len(row.columns) != layout.count(",") + 1:
            count = f"{len(row.columns)} columns in {quoted(line.strip())}"
            raise UserError(f"{row.line}: {count}; expected {layout}")
        name = row.columns[0]
        if len(line) > _LONGEST:
            raise UserError(f"{row.line}: {len(line):,} characters, too long for an id; {_AGAIN}")
        try:
            object_of(name)
        except ValueError as error:
            raise UserError(f"{row.line}: {error}") from error
        if earlier := rows.get(name):
            raise UserError(f"{row.line}: {quoted(name)} is repeated, first at {earlier.line}")
        rows[name] = row
    if not rows:
        raise UserError(f"{path}: no id in the file; expected lines `{layout}`")
    return rows


def hash_ids(ids: Sequence[str]) -> np.ndarray:
    """[N] int64 hashes, good within this process alone."""
    return np.fromiter(map(hash, ids), np.int64, len(ids))


@dataclasses.dataclass(frozen=True, eq=False)
class IdList:
    """A list of N distractors."""

    path: epath.Path
    # Whether only keys are compared, because the shards were made of tars of other names.
    by_key: bool
    hashes: np.ndarray  # [N] int64, sorted: of the lines, or of their keys
    num_whole: int  # lines that are full ids, `<tar file name>/<key>`; the others are keys
    digest: str  # sha256 of the lines in file order

    def __len__(self) -> int:
        return len(self.hashes)

    def __contains__(self, image_id: str) -> bool:
        """Whether the list holds an image, by its full id or by its key."""
        return bool(self.find([image_id])[0] >= 0)

    def find(self, ids: Sequence[str]) -> np.ndarray:
        """[M] int64 indices in `hashes` of M full ids `<tar file name>/<key>`, -1 if absent."""
        found = np.full(len(ids), -1, np.int64)
        if self.num_whole and not self.by_key:
            found = self._find(ids)
        if self.by_key or self.num_whole < len(self):
            found = np.maximum(found, self._find([key_of(image_id) for image_id in ids]))
        return found

    def _find(self, names: Sequence[str]) -> np.ndarray:
        wanted = hash_ids(names)
        indices = np.empty(len(wanted), np.int64)
        order = np.argsort(wanted)  # in their order they are found several times as fast
        indices[order] = np.searchsorted(self.hashes, wanted[order])
        indices[indices == len(self)] = 0
        return np.where(self.hashes[indices] == wanted, indices, -1)

    def names(self, indices: np.ndarray, limit: int) -> list[str]:
        """The first `limit` lines, in file order, of those at `indices`; reads the file again."""
        found: list[str] = []
        for _, lines in _blocks(self.path):
            there = np.isin(hash_ids(_compared(lines, self.by_key)), self.hashes[indices])
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
                f"{path}, line {first + number}: {quoted(lines[number])} is no distractor's id; "
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
    line_of: dict[str, int] = {}
    for first, lines in _blocks(path):
        names = _compared(lines, by_key)
        for i in np.flatnonzero(np.isin(hash_ids(names), hashes)):
            earlier = line_of.setdefault(names[i], first + int(i))
            if earlier != first + i:
                what = "the key of " if names[i] != lines[i] else ""
                again = f"is repeated, first at line {earlier}; {_AGAIN}"
                raise UserError(f"{path}, line {first + i}: {what}{quoted(lines[i])} {again}")


def _blocks(path: epath.Path) -> Iterator[tuple[int, list[str]]]:
    """Yields (number of the first line, lines) block by block.

    Empty lines are skipped; a block that has one is yielded line by line, to keep the numbers.
    """
    number = 1
    for data in _whole_lines(path):
        if number == 1:
            data = data.removeprefix(codecs.BOM_UTF8)
        try:
            text = data.decode()
        except UnicodeDecodeError as error:
            bad = number + data[: error.start].count(b"\n")
            raise UserError(f"{path}, line {bad}: not UTF-8 text ({error}); {_AGAIN}") from error
        lines, count = text.split(), text.count("\n")
        if "\0" not in text and "\n".join([*lines, ""]) == text:
            yield number, lines
        else:
            for i, line in enumerate(text.split("\n")[:count]):
                name, where = line.strip(), f"{path}, line {number + i}"
                if "\0" in name or len(name.split()) > 1:
                    raise UserError(
                        f"{where}: {quoted(name)} is no id; expected one a line; {_AGAIN}"
                    )
                if name:
                    yield number + i, [name]
        number += count


def _whole_lines(path: epath.Path) -> Iterator[bytes]:
    number, rest = 1, b""
    try:
        with reading(_require(path)), path.open("rb") as raw:
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


def absent_distractors(path: epath.PathLike, ids: set[str]) -> tuple[set[str], int]:
    """The ids that are not in `distractor_ids.txt.gz`, and the number of ids in it.

    A block of the file is in memory at a time; a UserError if it is missing or damaged.
    """
    absent, number = set(ids), 0
    for _, lines in _blocks(epath.Path(path)):
        absent.difference_update(lines)
        number += len(lines)
    return absent, number


def repeated_ids(lists: Sequence[Callable[[], list[str]]]) -> list[str]:
    """The ids that have come before, each as often as it comes again.

    Within a list all ids are compared; between lists only those of a folder (the part before the
    last "/") that several lists share, so that a database of many tars costs no set of all its ids.

    Args:
        lists: each reads one list of ids; it is called once, or twice where folders are shared.
    """
    repeated: list[str] = []
    lists_of: collections.Counter[str] = collections.Counter()
    for read in lists:
        ids = read()
        repeated += _again(ids)
        lists_of.update({name.rpartition("/")[0] for name in ids})
    shared = {folder for folder, count in lists_of.items() if count > 1}
    between = (i for read in lists for i in read() if i.rpartition("/")[0] in shared)
    again = _again(list(between)) if shared else []
    return [i for i in repeated if i.rpartition("/")[0] not in shared] + again


def _again(ids: list[str]) -> list[str]:
    if len(set(ids)) == len(ids):
        return []
    return list((collections.Counter(ids) - collections.Counter(set(ids))).elements())
