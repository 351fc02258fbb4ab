"""Core ILIAS: queries and positives in the order of the official id files.

Core must be whole: whatever is missing or no JPEG stops the conversion, all of it named at once.
"""

import csv
import hashlib
import json
import math
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence

from ilias_jax.dataset import finished, jpeg
from ilias_jax.dataset.core_files import CoreFiles
from ilias_jax.dataset.finished import Place
from ilias_jax.dataset.inventory import Source
from ilias_jax.errors import UserError
from ilias_jax.records import Box, ImageRecord, TextRecord

_NUM_NAMED = 5  # in a message
_WHERE_TEXTS_ARE = (
    "The Hugging Face copy has no text queries; they are in ilias_core.tar of the official server "
    "(https://vrg.fel.cvut.cz/ilias_data/ilias_core.tar). Give that with --core, or go on "
    "with the images alone: --without_text."
)


def read_ids(path: pathlib.Path) -> list[str]:
    """First column of an official id file, in file order.

    Raises:
        UserError: the file is missing, or an id is repeated or leads outside of core.
    """
    if not path.exists():
        raise UserError(f"{path} is missing; download the official id files")
    with path.open(newline="", encoding="utf-8") as file:
        ids = [row[0] for row in csv.reader(file) if row]
    for number, image_id in enumerate(ids, start=1):
        parts = image_id.split("/")
        if len(parts) != 3 or not set(parts).isdisjoint({"", ".", ".."}):
            raise UserError(
                f"{path}: id {number} is {image_id!r}; expected <object>/<folder>/<file>"
            )
    if repeated := len(ids) - len(set(ids)):
        raise UserError(f"{path} repeats {repeated} ids; download it again")
    return ids


def _boxes_of_lines(text: str, place: str) -> tuple[Box, ...]:
    """Boxes from lines of `x y w h`."""
    boxes = []
    for number, line in enumerate(text.splitlines(), start=1):
        try:
            boxes.append(_box(line.split()))
        except (ValueError, TypeError) as error:
            raise UserError(f"{place}:{number}: {line!r} is no box; expected `x y w h`") from error
    return tuple(boxes)


def _box(values: Sequence[str | float]) -> Box:
    x, y, width, height = (float(value) for value in values)
    if not all(map(math.isfinite, (x, y, width, height))):
        raise ValueError("not finite")
    return x, y, width, height


def _boxes_of_json(text: str, place: str) -> tuple[Box, ...]:
    """Boxes from `[[x, y, w, h], ...]`."""
    try:
        return tuple(_box(values) for values in json.loads(text))
    except (ValueError, TypeError) as error:
        raise UserError(
            f"{place}: {text[:60]!r} are no boxes; expected [[x, y, w, h], ...]"
        ) from error


def _boxes(files: CoreFiles, image_id: str) -> tuple[Box, ...]:
    """Boxes beside a core image, in either form; none if there is no file."""
    stem = image_id.rpartition(".")[0]
    for name, parse in (
        (stem + "_bbox.txt", _boxes_of_lines),
        (stem + ".bbox.json", _boxes_of_json),
    ):
        if (data := files.read(name)) is not None:
            return parse(_text(data, files.place(name)), files.place(name))
    return ()


def _text(data: bytes, place: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise UserError(f"{place}: not UTF-8 text ({error}); download it again") from error


def _together(problems: list[str]) -> UserError:
    more = f"\nand {len(problems) - _NUM_NAMED:,} more" if len(problems) > _NUM_NAMED else ""
    return UserError("\n".join(problems[:_NUM_NAMED]) + more)


def check_images(files: CoreFiles, ids: Sequence[str]) -> dict[str, tuple[Box, ...]]:
    """Looks at every image of a split; returns id -> boxes in the order of `ids`.

    Raises:
        UserError: images are missing or none, or boxes malformed; names the first few.
    """
    boxes, problems = {}, []
    for image_id in ids:
        data = files.read(image_id)
        if data is None:
            problems.append(f"{files.place(image_id)} is missing, but image_ids/ lists it")
        elif problem := jpeg.problem_of(data):
            problems.append(f"{files.place(image_id)} cannot be stored: {problem}")
        else:
            boxes[image_id] = _boxes(files, image_id)
    if problems:
        raise _together(problems)
    return boxes


def read_texts(files: CoreFiles, ids: Sequence[str]) -> list[TextRecord]:
    """All text queries, each a whole file.

    Raises:
        UserError: some are missing or no UTF-8; says where they are if all are missing.
    """
    found = {query_id: files.read(query_id) for query_id in ids}
    missing = [query_id for query_id, data in found.items() if data is None]
    if missing and len(missing) == len(ids):
        raise UserError(
            f"{files.name} holds none of the {len(ids):,} text queries. " + _WHERE_TEXTS_ARE
        )
    if missing:
        lost = [f"{files.place(i)} is missing, but image_ids/ lists it" for i in missing]
        raise _together(lost)
    return [
        TextRecord(query_id, _text(data, files.place(query_id)))
        for query_id, data in found.items()
        if data is not None
    ]


def _source_of(files: CoreFiles, boxes: Mapping[str, tuple[Box, ...]]) -> Source:
    """What identifies a split's images: the files, their order and their boxes."""
    num_bytes, parts = files.identity(boxes)
    listing = "\n".join(parts + [f"{image_id} {found}" for image_id, found in boxes.items()])
    return Source(files.name, num_bytes, hashlib.sha256(listing.encode()).hexdigest())


def _records(files: CoreFiles, boxes: Mapping[str, tuple[Box, ...]]) -> Iterator[ImageRecord]:
    for image_id, found in boxes.items():
        data = files.read(image_id)
        if data is None:
            raise UserError(f"{files.place(image_id)} is gone since it was looked at")
        yield ImageRecord(image_id, data, found)


def convert_split(
    place: Place,
    files: CoreFiles,
    boxes: Mapping[str, tuple[Box, ...]],
    before_writing: Callable[[], None],
) -> None:
    """Writes the shard of a core split, unless it is there already.

    Args:
        place: of the shard.
        files: core.
        boxes: what `check_images` returned.
        before_writing: called if there is something to write.
    """
    source = _source_of(files, boxes)
    done = finished.find(place)
    if done is None or done.source != source:
        before_writing()
        finished.write(place, source, _records(files, boxes), ())
