"""The published forms of a dataset, made from a world's folder in the official layout."""

import io
import json
import pathlib
import tarfile
from collections.abc import Iterable, Iterator

from PIL import Image


def add_file(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    """Adds a file with mtime 0, so that the same world gives the same tar."""
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def tar_of(path: pathlib.Path, files: Iterable[tuple[str, bytes]]) -> pathlib.Path:
    """Writes a tar of (name, bytes), folders to it included."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in files:
            add_file(tar, name, data)
    return path


def jpeg(color: int = 0, size: tuple[int, int] = (16, 12)) -> bytes:
    """A small JPEG of one colour."""
    buffer = io.BytesIO()
    Image.new("RGB", size, (color % 256, 99, 200)).save(buffer, "JPEG")
    return buffer.getvalue()


def ids(world: pathlib.Path, name: str) -> list[str]:
    """First column of an id file, such as "positive_ids.txt"."""
    lines = (world / "image_ids" / name).read_text().splitlines()
    return [line.split(",")[0] for line in lines]


def core_tar(
    world: pathlib.Path, path: pathlib.Path | None = None, prefix: str = "ilias_core/"
) -> pathlib.Path:
    """`ilias_core.tar`: all files of `ilias_core/` with folder members, in the folder's order.

    Args:
        world: holds `ilias_core/`.
        path: of the tar; `world/ilias_core.tar` if None.
        prefix: of every name; some tars have "./" or nothing.
    """
    path = path or world / "ilias_core.tar"
    path.parent.mkdir(parents=True, exist_ok=True)
    core = world / "ilias_core"
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
        for file in sorted(core.rglob("*"), reverse=True):
            name = prefix + str(file.relative_to(core))
            if file.is_dir():
                folder = tarfile.TarInfo(name)
                folder.type = tarfile.DIRTYPE
                tar.addfile(folder)
            else:
                add_file(tar, name, file.read_bytes())
    return path


def _boxes(image: pathlib.Path) -> bytes:
    text = image.with_name(image.stem + "_bbox.txt").read_text()
    return json.dumps([[float(v) for v in line.split()] for line in text.splitlines()]).encode()


def _samples(world: pathlib.Path, image_ids: list[str]) -> Iterator[tuple[str, bytes]]:
    """WebDataset members of core images: `.bbox.json`, `.download_url.txt`, `.jpg`."""
    for image_id in image_ids:
        path, key = world / "ilias_core" / image_id, image_id.removesuffix(".jpg")
        yield f"{key}.bbox.json", _boxes(path)
        yield f"{key}.download_url.txt", f"https://example.org/{key}\n".encode()
        yield f"{key}.jpg", path.read_bytes()


def yfcc_images(world: pathlib.Path) -> Iterator[tuple[str, bytes]]:
    """(key, bytes) of all distractors of the world's YFCC tars."""
    for path in sorted((world / "yfcc100m").glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                file = tar.extractfile(member)
                assert file is not None
                yield member.name.removesuffix(".jpg"), file.read()


def huggingface_tars(
    world: pathlib.Path, folder: pathlib.Path, num_mini_tars: int = 2
) -> list[pathlib.Path]:
    """The Hugging Face copy: two core tars without texts, and tars of all the world's distractors.

    Args:
        world: holds `ilias_core/`, `image_ids/` and `yfcc100m/*.tar`.
        folder: receives the tars.
        num_mini_tars: tars that the distractors are dealt to in turn.

    Returns:
        The tars: core queries, core database, then the mini tars.
    """
    images = list(yfcc_images(world))
    return [
        tar_of(
            folder / "ilias-core-queries-img-000000.tar",
            _samples(world, ids(world, "image_query_ids.txt")),
        ),
        tar_of(
            folder / "ilias-core-db-000000.tar", _samples(world, ids(world, "positive_ids.txt"))
        ),
        *(
            tar_of(
                folder / f"mini_ilias_yfcc100m-{number:06d}.tar",
                (
                    part
                    for key, data in images[number::num_mini_tars]
                    for part in ((f"{key}.jpg", data), (f"{key}.json", b"{}"))
                ),
            )
            for number in range(num_mini_tars)
        ),
    ]
