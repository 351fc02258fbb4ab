"""The training list: which class every picture belongs to, and which row of vectors it has.

A line is `path,class,domain`. Numbers of classes repeat between domains, so a class is the pair.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from etils import epath

from ilias_jax.errors import UserError


@dataclasses.dataclass(frozen=True, eq=False)
class TrainingList:
    """Pictures and their classes.

    Attributes:
        place: the file, for messages.
        paths: N paths, each once.
        classes: [N] int32 in [0, C), numbered in order of first appearance.
        num_classes: C.
    """

    place: str
    paths: tuple[str, ...]
    classes: np.ndarray
    num_classes: int


def read_training_list(path: epath.PathLike) -> TrainingList:
    """Reads a training list; a UserError if a line is not of the form or a path comes twice."""
    path = epath.Path(path)
    if not path.exists() or path.is_dir():
        raise UserError(f"{path}: no such file; it has lines path,class,domain")
    numbers: dict[tuple[int, int], int] = {}
    rows: dict[str, int] = {}
    for number, line in enumerate(path.read_text().splitlines(), 1):
        name, pair = _parse(line, f"{path} line {number}")
        if name in rows:
            raise UserError(f"{path} line {number}: {name!r} comes twice")
        rows[name] = numbers.setdefault(pair, len(numbers))
    classes = np.fromiter(rows.values(), np.int32, len(rows))
    return TrainingList(str(path), tuple(rows), classes, len(numbers))


def _parse(line: str, place: str) -> tuple[str, tuple[int, int]]:
    """A line's path and (class, domain); the path may hold commas."""
    try:
        name, class_, domain = line.strip().rsplit(",", 2)
        pair = int(class_), int(domain)
    except ValueError as error:
        raise UserError(f"{place}: {line!r} is not path,class,domain with whole numbers") from error
    if not name:
        raise UserError(f"{place}: {line!r} is not path,class,domain: it has no path")
    return name, pair


def escape_path(path: str) -> str:
    """A path as official feature files write it, in ASCII.

    Characters up to U+00FF become `#U00e9`, those up to U+FFFF `#U4e2d`; what Python's
    unicode-escape marks with another backslash keeps it, four times as the official extraction
    prints its bytes.
    """
    if path.isascii() and path.isprintable() and "\\" not in path:
        return path
    escaped = path.encode("unicode-escape").decode("ascii").replace("\\", "\\\\")
    return escaped.replace("\\\\u", "#U").replace("\\\\x", "#U00")


def classes_of(listed: TrainingList, ids: Sequence[str], place: str) -> np.ndarray:
    """The class of every row of vectors, found by its id, not by its position.

    Args:
        listed: the training list.
        ids: id of every row: a path of the list, as it is or escaped.
        place: where the rows are from, for messages.

    Returns:
        [N] int32, class of each row.

    Raises:
        UserError: an id is not on the list or comes twice, or a path of the list has no row; the
            first of each is named.
    """
    lines = {escape_path(path): line for line, path in enumerate(listed.paths)}
    lines |= {path: line for line, path in enumerate(listed.paths)}
    found = np.fromiter((lines.get(name, -1) for name in ids), np.int64, len(ids))
    if (unknown := np.flatnonzero(found < 0)).size:
        row = int(unknown[0])
        listed_there = repr(listed.paths[row]) if row < len(listed.paths) else "not there"
        raise UserError(
            f"{place}: {unknown.size:,} of {len(ids):,} ids are not in {listed.place}, first row "
            f"{row}: {ids[row]!r}; line {row + 1} of the list is {listed_there}"
        )
    counts = np.bincount(found, minlength=len(listed.paths))
    for wrong, what in ((counts > 1, "come more than once in"), (counts == 0, "have no row in")):
        if wrong.any():
            line = int(np.flatnonzero(wrong)[0])
            raise UserError(
                f"{wrong.sum():,} of {len(listed.paths):,} paths of {listed.place} {what} {place}, "
                f"first line {line + 1}: {listed.paths[line]!r}"
            )
    return listed.classes[found]
