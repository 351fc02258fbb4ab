"""Core ILIAS, and where a dataset's inputs are: queries and positives as a folder or inside tars.

Core must be whole: whatever is missing or no JPEG stops the conversion, all of it named at once.
Records come in the order of the official id files.
"""

import dataclasses
import filecmp
import functools
import hashlib
import math
import pathlib
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence

from etils import epath

from ilias_jax.dataset import tars
from ilias_jax.dataset.catalogue import BASE_URL
from ilias_jax.dataset.id_lists import read_id_rows
from ilias_jax.dataset.inventory import Source
from ilias_jax.dataset.layout import HUGGING_FACE_TAR, Box, ImageRecord, TextRecord
from ilias_jax.errors import UserError, quoted
from ilias_jax.files import head_and_tail, parse_json, replacing

_FOLDER = "ilias_core/"  # some tars have it before every name
_NUM_NAMED = 5  # in a message
_BOXES = "expected [[x, y, w, h], ...]"


@dataclasses.dataclass(frozen=True)
class CoreFolder:
    """The files of core by official name, such as "mug_012/pos/P012_03.jpg", in a folder."""

    path: pathlib.Path

    @property
    def name(self) -> str:
        """Name of the folder, without the path to it."""
        return self.path.name

    def read(self, name: str) -> bytes | None:
        """A file's bytes, None if there is none."""
        path = self.path / name
        return path.read_bytes() if path.is_file() else None

    def locate(self, name: str) -> str:
        """Where a file is or would be, for messages."""
        return str(self.path / name)

    def identity(self, names: Iterable[str]) -> tuple[int, list[str]]:
        """Bytes of the named files, and what must be equal for them to be the same as before."""
        paths = [epath.Path(self.path / name) for name in names]
        sizes = [path.stat().length for path in paths]
        parts = [f"{size} {head_and_tail(path)}" for size, path in zip(sizes, paths, strict=True)]
        return sum(sizes), parts


@dataclasses.dataclass(frozen=True)
class CoreTars:
    """The same files in `ilias_core.tar` or the core tars of the Hugging Face copy, by an index.

    The first use raises DamagedTarError if a tar cannot be read to its end.
    """

    paths: tuple[pathlib.Path, ...]

    @property
    def name(self) -> str:
        """Names of the tars."""
        return ", ".join(path.name for path in self.paths)

    @functools.cached_property
    def _index(self) -> dict[str, tuple[pathlib.Path, tars.Member]]:
        index: dict[str, tuple[pathlib.Path, tars.Member]] = {}
        for path in self.paths:
            for member in tars.members(path, is_wanted=lambda name: False):
                name = member.name.removeprefix("./").removeprefix(_FOLDER)
                if member.kind == tars.FOLDER:
                    continue
                if name in index:
                    raise UserError(
                        f"{name} is in {index[name][0]} and again in {path} at byte "
                        f"{member.offset:,}; download core again"
                    )
                index[name] = path, member
        return index

    def read(self, name: str) -> bytes | None:
        """A file's bytes, None if there is none; a UserError if it is no file or too large."""
        if name not in self._index:
            return None
        path, member = self._index[name]
        if member.kind != tars.FILE or member.size > tars.MAX_MEMBER_BYTES:
            raise UserError(
                f"{path}: {name} is {member.kind} of {member.size:,} bytes; expected a file of at "
                f"most {tars.MAX_MEMBER_BYTES:,}; download core again"
            )
        with path.open("rb") as file:
            file.seek(member.offset)
            return file.read(member.size)

    def locate(self, name: str) -> str:
        """The tar and a file's name in it."""
        path = self._index[name][0] if name in self._index else self.name
        return f"{path}: {name}"

    def identity(self, unused: Iterable[str]) -> tuple[int, list[str]]:
        """Bytes of the tars, and digests of their heads and tails."""
        parts = [f"{path.name} {head_and_tail(epath.Path(path))}" for path in self.paths]
        return sum(path.stat().st_size for path in self.paths), parts


CoreFiles = CoreFolder | CoreTars


def read_core_ids(path: pathlib.Path) -> list[str]:
    """The ids of an official id file; a UserError if one is repeated or leads outside of core."""
    rows = read_id_rows(path)
    for image_id, row in rows.items():
        parts = image_id.split("/")
        if len(parts) != 3 or not set(parts).isdisjoint({"", ".", ".."}):
            raise UserError(f"{row.line}: {quoted(image_id)}; expected <object>/<folder>/<file>")
    return list(rows)


def read_boxes(files: CoreFiles, ids: Sequence[str]) -> dict[str, tuple[Box, ...]]:
    """Looks at every image of a split; returns id -> boxes in the order of `ids`.

    Raises:
        UserError: images are missing or none, or boxes malformed; names the first few.
    """
    boxes, problems = {}, []
    for image_id in ids:
        data = files.read(image_id)
        if data is None:
            problems.append(f"{files.locate(image_id)} is missing, but image_ids/ lists it")
        elif problem := tars.image_problem(data):
            problems.append(f"{files.locate(image_id)} cannot be stored: {problem}")
        else:
            boxes[image_id] = _boxes(files, image_id)
    _refuse(problems)
    return boxes


def _boxes(files: CoreFiles, image_id: str) -> tuple[Box, ...]:
    """Boxes of the file beside a core image, lines of `x y w h` or JSON; none without a file."""
    for suffix, parse in (("_bbox.txt", _boxes_of_lines), (".bbox.json", _boxes_of_json)):
        name = image_id.rpartition(".")[0] + suffix
        if (data := files.read(name)) is not None:
            return parse(_decode(data, files.locate(name)), files.locate(name))
    return ()


def _boxes_of_lines(text: str, where: str) -> tuple[Box, ...]:
    boxes = []
    for number, line in enumerate(text.splitlines(), start=1):
        try:
            boxes.append(_box(line.split()))
        except (ValueError, TypeError) as error:
            raise UserError(
                f"{where}:{number}: {quoted(line)} is no box; expected `x y w h`"
            ) from error
    return tuple(boxes)


def _boxes_of_json(text: str, where: str) -> tuple[Box, ...]:
    try:
        return tuple(map(_box, parse_json(text, where, _BOXES)))
    except (ValueError, TypeError) as error:
        raise UserError(f"{where}: {quoted(text)} are no boxes; {_BOXES}") from error


def _box(values: Sequence[str | float]) -> Box:
    x, y, width, height = (float(value) for value in values)
    if not all(map(math.isfinite, (x, y, width, height))):
        raise ValueError("not finite")
    return x, y, width, height


def _decode(data: bytes, where: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: not UTF-8 text ({error}); download it again") from error


def _refuse(problems: list[str]) -> None:
    shown, num_more = problems[:_NUM_NAMED], len(problems) - _NUM_NAMED
    if problems:
        raise UserError("\n".join(shown + [f"and {num_more:,} more"] * (num_more > 0)))


def read_texts(files: CoreFiles, ids: Sequence[str]) -> list[TextRecord]:
    """All text queries, each a whole file; a UserError if some are missing, empty or no UTF-8."""
    texts, missing = [], []
    for query_id in ids:
        if (data := files.read(query_id)) is None:
            missing.append(f"{files.locate(query_id)} is missing, but image_ids/ lists it")
        elif not data.strip():
            missing.append(f"{files.locate(query_id)} is empty; download core again")
        else:
            texts.append(TextRecord(query_id, _decode(data, files.locate(query_id))))
    if missing and not texts:
        raise UserError(
            f"{files.name} holds none of the {len(ids):,} text queries. The Hugging Face copy has "
            "no text queries; they are in ilias_core.tar of the official server "
            f"({BASE_URL}/ilias_core.tar). Give that with --core, or go on with the images alone: "
            "--without_text."
        )
    _refuse(missing)
    return texts


def source_of(files: CoreFiles, boxes: Mapping[str, tuple[Box, ...]]) -> Source:
    """What identifies a split's images: the files, their order and their boxes."""
    num_bytes, parts = files.identity(boxes)
    listing = "\n".join(parts + [f"{image_id} {found}" for image_id, found in boxes.items()])
    return Source(files.name, num_bytes, hashlib.sha256(listing.encode()).hexdigest())


def read_records(files: CoreFiles, boxes: Mapping[str, tuple[Box, ...]]) -> Iterator[ImageRecord]:
    """Yields the images that `read_boxes` has looked at."""
    for image_id, found in boxes.items():
        data = files.read(image_id)
        if data is None:
            raise UserError(f"{files.locate(image_id)} is gone since it was looked at")
        yield ImageRecord(image_id, data, found)


def copy_annotations(root: pathlib.Path, data_dir: pathlib.Path) -> None:
    """Copies `image_ids/` and `misc/` into a data folder that is another folder than `root`."""
    for path in sorted([*root.glob("image_ids/*"), *root.glob("misc/*")]):
        copy = data_dir / path.parent.name / path.name
        is_there = copy.exists() and (path.samefile(copy) or filecmp.cmp(path, copy, shallow=False))
        if path.is_file() and not path.name.startswith(".") and not is_there:
            with replacing(epath.Path(copy)) as temporary:
                shutil.copyfile(path, temporary)


@dataclasses.dataclass(frozen=True)
class Inputs:
    """What is converted."""

    core: CoreFiles
    tars: tuple[pathlib.Path, ...]  # of distractors, by name; their names are all different
    notes: tuple[str, ...]  # what was taken where several forms are there, for the user


def find_inputs(
    root: pathlib.Path, core: Sequence[pathlib.Path] = (), distractors: Sequence[pathlib.Path] = ()
) -> Inputs:
    """Finds below `root`, in the official layout, what is not named: core, and distractor tars.

    Raises:
        UserError: something is missing, or two tars have the same name, which begins their ids.
    """
    if not root.is_dir():
        raise UserError(f"--root {root} is no folder")
    notes: list[str] = []
    core_paths = _named("--core", core) or _find_core(root, notes)
    named = _named("--distractors", distractors)
    paths = [p for path in named for p in (_tars(path, "*.tar") if path.is_dir() else [path])]
    if named and not paths:
        raise UserError(f"--distractors {' '.join(map(str, named))}: no .tar file in there")
    paths = paths or _find_tars(root, notes)
    by_name: dict[str, pathlib.Path] = {}
    for path in paths:
        if (other := by_name.setdefault(path.name, path)) is not path:
            raise UserError(f"{other} and {path} have the same name, with which their ids begin")
    is_folder = len(core_paths) == 1 and core_paths[0].is_dir()
    files = CoreFolder(core_paths[0]) if is_folder else CoreTars(tuple(core_paths))
    return Inputs(files, tuple(by_name[name] for name in sorted(by_name)), tuple(notes))


def _named(flag: str, paths: Sequence[pathlib.Path]) -> list[pathlib.Path]:
    if lost := [str(path) for path in paths if not path.exists()]:
        raise UserError(f"{flag} {' '.join(lost)}: no such file or folder")
    return list(paths)


def _tars(folder: pathlib.Path, pattern: str) -> list[pathlib.Path]:
    """Visible tars of a folder by name; what begins with a dot is not finished."""
    return sorted(path for path in folder.glob(pattern) if not path.name.startswith("."))


def _find_core(root: pathlib.Path, notes: list[str]) -> list[pathlib.Path]:
    # The tar before the folder, for its download was verified and no extraction was cut short.
    tar, folder = root / "ilias_core.tar", root / "ilias_core"
    forms = [[tar] * tar.is_file(), [folder] * folder.is_dir(), _tars(root, "ilias-core-*.tar")]
    if not any(forms):
        raise UserError(
            f"{root} holds no core ILIAS: neither ilias_core.tar nor ilias_core/ nor "
            "ilias-core-*.tar (Hugging Face); name it with --core or download it"
        )
    return _choose("core", forms, notes)


def _find_tars(root: pathlib.Path, notes: list[str]) -> list[pathlib.Path]:
    forms = [_tars(root / "yfcc100m", "*.tar"), _tars(root, HUGGING_FACE_TAR + "*.tar")]
    if not any(forms):
        raise UserError(
            f"{root / 'yfcc100m'} holds no .tar file and {root} no {HUGGING_FACE_TAR}*.tar "
            "(Hugging Face); name tars or their folder with --distractors or download them"
        )
    return _choose("distractors", forms, notes)


def _choose(what: str, forms: Sequence[list[pathlib.Path]], notes: list[str]) -> list[pathlib.Path]:
    chosen, *others = [paths for paths in forms if paths]
    if others:
        left = " and ".join(map(_brief, others))
        notes.append(f"{what}: takes {_brief(chosen)}, not {left} (--{what} names another)")
    return chosen


def _brief(paths: list[pathlib.Path]) -> str:
    return str(paths[0]) if len(paths) == 1 else f"{len(paths)} tars like {paths[0]}"
