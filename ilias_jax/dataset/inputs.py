"""Which of the published forms are there: core as folder or tars, distractors as tars."""

import dataclasses
import pathlib
from collections.abc import Sequence

from ilias_jax.dataset.core_files import CoreFiles, CoreFolder, CoreTars
from ilias_jax.errors import UserError

MINI_PREFIX = "mini_ilias_yfcc100m-"  # of the Hugging Face copy's distractor tars


@dataclasses.dataclass(frozen=True)
class Inputs:
    """What is converted.

    Attributes:
        core: the core files.
        tars: the tars of distractors, by name; their names are all different.
        notes: what was taken where several forms are there, for the user.
    """

    core: CoreFiles
    tars: tuple[pathlib.Path, ...]
    notes: tuple[str, ...]


def _tars(folder: pathlib.Path, pattern: str) -> list[pathlib.Path]:
    """Visible tars of a folder by name; what begins with a dot is not finished."""
    return sorted(path for path in folder.glob(pattern) if not path.name.startswith("."))


def _open_core(paths: Sequence[pathlib.Path]) -> CoreFiles:
    if len(paths) == 1 and paths[0].is_dir():
        return CoreFolder(paths[0])
    return CoreTars(tuple(paths))


def _named(flag: str, names: Sequence[pathlib.Path]) -> list[pathlib.Path]:
    """Paths that a flag names, all of which must be there."""
    if lost := [str(path) for path in names if not path.exists()]:
        raise UserError(f"{flag} {' '.join(lost)}: no such file or folder")
    return list(names)


def _choose(
    what: str, forms: Sequence[list[pathlib.Path]], flag: str
) -> tuple[list[pathlib.Path], list[str]]:
    """The first form that is there, and a note if others are there too."""
    present = [paths for paths in forms if paths]
    if len(present) < 2:
        return (present[0] if present else []), []
    others = " and ".join(_brief(paths) for paths in present[1:])
    return present[0], [f"{what}: takes {_brief(present[0])}, not {others} ({flag} names another)"]


def _brief(paths: list[pathlib.Path]) -> str:
    return str(paths[0]) if len(paths) == 1 else f"{len(paths)} tars like {paths[0]}"


def _find_core(root: pathlib.Path, named: Sequence[pathlib.Path]) -> tuple[CoreFiles, list[str]]:
    """The tar before the folder, for its download was verified and no extraction was cut short."""
    if named:
        return _open_core(_named("--core", named)), []
    folder, tar = root / "ilias_core", root / "ilias_core.tar"
    forms = [
        [tar] if tar.is_file() else [],
        [folder] if folder.is_dir() else [],
        _tars(root, "ilias-core-*.tar"),
    ]
    paths, notes = _choose("core", forms, "--core")
    if not paths:
        raise UserError(
            f"{root} holds no core ILIAS: neither ilias_core.tar nor ilias_core/ nor "
            "ilias-core-*.tar (Hugging Face); name it with --core or download it"
        )
    return _open_core(paths), notes


def _find_tars(
    root: pathlib.Path, named: Sequence[pathlib.Path]
) -> tuple[list[pathlib.Path], list[str]]:
    if named:
        paths = _named("--distractors", named)
        found = [
            tar for path in paths for tar in (_tars(path, "*.tar") if path.is_dir() else [path])
        ]
        if not found:
            raise UserError(f"--distractors {' '.join(map(str, named))}: no .tar file in there")
        return found, []
    forms = [_tars(root / "yfcc100m", "*.tar"), _tars(root, MINI_PREFIX + "*.tar")]
    tars, notes = _choose("distractors", forms, "--distractors")
    if not tars:
        raise UserError(
            f"{root / 'yfcc100m'} holds no .tar file and {root} no {MINI_PREFIX}*.tar (Hugging "
            "Face); name tars or their folder with --distractors or download them"
        )
    return tars, notes


def find_inputs(
    root: pathlib.Path,
    core: Sequence[pathlib.Path] = (),
    distractors: Sequence[pathlib.Path] = (),
) -> Inputs:
    """Finds the inputs below a folder in the official layout.

    Args:
        root: the folder.
        core: the core folder, or core tars; looked for below `root` if empty.
        distractors: tars or folders of tars; looked for below `root` if empty.

    Raises:
        UserError: something is missing, or two tars have the same name, which begins their ids.
    """
    if not root.is_dir():
        raise UserError(f"--root {root} is no folder")
    files, core_notes = _find_core(root, core)
    tars, tar_notes = _find_tars(root, distractors)
    by_name: dict[str, pathlib.Path] = {}
    for tar in tars:
        other = by_name.setdefault(tar.name, tar)
        if other is not tar:
            raise UserError(f"{other} and {tar} have the same name, with which their ids begin")
    ordered = tuple(by_name[name] for name in sorted(by_name))
    return Inputs(files, ordered, (*core_notes, *tar_notes))
