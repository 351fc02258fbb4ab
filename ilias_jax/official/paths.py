"""Names of feature files: the toolkit's templates, wildcards and plain paths, in numeric order."""

import re
from collections.abc import Sequence

from etils import epath

from ilias_jax.errors import UserError

_NUMBER = "{idx}"


def feature_paths(words: Sequence[str], total: int | None = None) -> list[epath.Path]:
    """The files that the words of a command line name.

    Args:
        words: each a path, a file name with wildcards, or a template whose `{idx}` stands for
            00000, 00001, ...; files of a template or of wildcards come in the order of the numbers
            in their names.
        total: how many files the one template stands for; None for all that are there.

    Raises:
        UserError: a file is not there, a number is left out, or a file is named twice.
    """
    if total is not None and (len(words) != 1 or _NUMBER not in words[0] or total < 1):
        raise UserError(
            f"--total_distractors {total} goes with one template such as "
            f"features_distractors_{_NUMBER}.hdf5 and is at least 1; got {' '.join(words)}"
        )
    paths = [path for word in words for path in _paths_of(word, total)]
    twice = sorted({str(path) for path in paths if paths.count(path) > 1})
    if twice:
        raise UserError(f"named more than once: {', '.join(twice[:3])}")
    return paths


def _paths_of(word: str, total: int | None) -> list[epath.Path]:
    if _NUMBER in word:
        return _of_template(word, total)
    path = epath.Path(word)
    if path.exists() and not path.is_dir():
        return [path]
    found = list(path.parent.glob(path.name)) if re.search(r"[*?\[]", path.name) else []
    if not found:
        raise UserError(f"{word}: no such file; wildcards may stand in the file's name alone")
    return sorted(found, key=lambda each: _natural(each.name))


def _natural(name: str) -> list[tuple[int, str]]:
    """Sorts the numbers in a name by value: 2 before 10."""
    parts = re.split(r"(\d+)", name)
    return [(int(part), part) if part.isdecimal() else (-1, part) for part in parts]


def _of_template(word: str, total: int | None) -> list[epath.Path]:
    """The files 0, 1, ... of a template; the toolkit writes a number with at least five digits."""
    template = epath.Path(word)
    if template.name.count(_NUMBER) != 1 or word.count(_NUMBER) != 1:
        raise UserError(f"{word}: {_NUMBER} stands once, in the file's name")
    if total is None:
        before, after = map(re.escape, template.name.split(_NUMBER))
        pattern = re.compile(rf"{before}(\d{{5,}}){after}")
        matches = map(pattern.fullmatch, (path.name for path in _listed(template.parent)))
        total = 1 + max((int(match[1]) for match in matches if match), default=0)
    paths = [epath.Path(word.replace(_NUMBER, f"{number:05d}")) for number in range(total)]
    missing = [str(path) for path in paths if not path.exists()]
    if missing:
        raise UserError(
            f"{len(missing)} of the {total} files of {word} are missing: {', '.join(missing[:3])}; "
            "a search without them would be of a smaller database"
        )
    return paths


def _listed(folder: epath.Path) -> list[epath.Path]:
    return list(folder.iterdir()) if folder.exists() else []
