"""Official layout to ArrayRecord shards: core folder and YFCC tars, one tar one shard."""

import concurrent.futures
import csv
import functools
import multiprocessing
import pathlib
import tarfile
from collections.abc import Iterator

from ilias_jax.dataset import shards
from ilias_jax.errors import UserError
from ilias_jax.progress import track
from ilias_jax.records import Box, ImageRecord, TextRecord


def _ids(root: pathlib.Path, name: str) -> list[str]:
    """First column of an official id file, in file order."""
    path = root / "image_ids" / name
    if not path.exists():
        raise UserError(f"{path} is missing; expected the official layout below {root}")
    with path.open(newline="", encoding="utf-8") as file:
        return [row[0] for row in csv.reader(file) if row]


def _boxes(path: pathlib.Path) -> tuple[Box, ...]:
    """Boxes beside a core image, lines of `x y w h`; none if there is no file."""
    if not path.exists():
        return ()
    boxes = []
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        try:
            x, y, width, height = (float(value) for value in line.split())
        except ValueError as error:
            raise UserError(f"{path}:{number}: {line!r} is no box; expected `x y w h`") from error
        boxes.append((x, y, width, height))
    return tuple(boxes)


def _core_file(root: pathlib.Path, name: str) -> pathlib.Path:
    path = root / "ilias_core" / name
    if not path.exists():
        raise UserError(f"{path} is missing, but image_ids/ lists it")
    return path


def _core_records(root: pathlib.Path, ids: list[str]) -> Iterator[ImageRecord]:
    for image_id in ids:
        path = _core_file(root, image_id)
        boxes = _boxes(path.with_name(path.stem + "_bbox.txt"))
        yield ImageRecord(image_id, path.read_bytes(), boxes)


def _tar_records(path: pathlib.Path) -> Iterator[ImageRecord]:
    end = 0
    with tarfile.open(path) as tar:
        for member in tar:
            end = member.offset_data + -(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
            if not (member.isfile() and member.name.lower().endswith(".jpg")):
                continue
            file = tar.extractfile(member)
            assert file is not None  # isfile() above
            yield ImageRecord(f"{path.name}/{member.name[:-4]}", file.read())
    _check_end(path, end)


def _check_end(path: pathlib.Path, offset: int) -> None:
    """Raises TarError if a tar does not end by its mark: tarfile takes a cut one for whole."""
    with path.open("rb") as file:
        file.seek(offset)
        mark = file.read(2 * tarfile.BLOCKSIZE)
    if mark != bytes(2 * tarfile.BLOCKSIZE):
        raise tarfile.ReadError(f"no end of archive at byte {offset:,}, after its last member")


def _convert_tar(
    data_dir: pathlib.Path, num_shards: int, job: tuple[int, pathlib.Path]
) -> tuple[int, int]:
    index, path = job
    try:
        counts = shards.write_image_shard(
            data_dir, "distractor", index, num_shards, _tar_records(path)
        )
    except tarfile.TarError as error:
        raise UserError(f"{path} is damaged ({error}); download it again") from error
    if not counts[0]:
        raise UserError(f"{path} holds no .jpg file")
    return counts


def convert(root: pathlib.Path, data_dir: pathlib.Path, num_processes: int = 2) -> None:
    """Writes the shards of a dataset in the official layout.

    Args:
        root: holds `ilias_core/`, `yfcc100m/*.tar` and `image_ids/`.
        data_dir: receives `ilias/` and `ilias_text/`; may be `root`.
        num_processes: tars converted at the same time.

    Raises:
        UserError: an id file or a file that it lists is missing, a box file is malformed, there is
            no tar, or one is damaged or empty.
    """
    tars = sorted((root / "yfcc100m").glob("*.tar"))
    if not tars:
        raise UserError(f"{root / 'yfcc100m'} holds no .tar file")
    shards.remove_metadata(data_dir)
    core = {
        split: shards.write_image_shard(
            data_dir, split, 0, 1, _core_records(root, _ids(root, name))
        )
        for split, name in (
            ("image_query", "image_query_ids.txt"),
            ("positive", "positive_ids.txt"),
        )
    }
    texts = [
        TextRecord(query_id, _core_file(root, query_id).read_text(encoding="utf-8"))
        for query_id in _ids(root, "text_query_ids.txt")
    ]
    text_counts = shards.write_text_shard(data_dir, texts)
    context = multiprocessing.get_context("spawn")
    distractors = []
    with (
        track("convert tars", len(tars)) as advance,
        concurrent.futures.ProcessPoolExecutor(num_processes, mp_context=context) as executor,
    ):
        job = functools.partial(_convert_tar, data_dir, len(tars))
        for counts in executor.map(job, enumerate(tars)):
            distractors.append(counts)
            advance(1)
    description = "ILIAS: instance-level image retrieval at scale"
    shards.write_metadata(
        shards.texts_folder(data_dir),
        shards.text_features(),
        {shards.TEXT_SPLIT: [text_counts]},
        description + ", text queries",
    )
    shards.write_metadata(
        shards.images_folder(data_dir),
        shards.image_features(),
        {**{split: [counts] for split, counts in core.items()}, "distractor": distractors},
        description + ", images",
    )
