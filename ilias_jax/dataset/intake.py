"""Which members of a tar are images, under which id, and why some are rejected.

The key is that of WebDataset: the member's name up to the first dot of its base name, folders
kept. The official toolkit takes a member as an image if what follows that dot is `jpg`.
"""

import dataclasses
import pathlib
import re
from collections.abc import Iterable, Iterator

from ilias_jax.dataset import jpeg, tar
from ilias_jax.records import ImageRecord

# Names that mean an image to anyone: none of them may vanish without a word.
_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".webp", ".bmp", ".tif", ".tiff")
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")  # would break a line of an id file


def looks_like_image(name: str) -> bool:
    """Whether a member's name claims to be an image."""
    return name.lower().endswith(_IMAGE_SUFFIXES)


def split_name(name: str) -> tuple[str, str]:
    """(key, extension) as WebDataset has them; a base name that begins with a dot has no key."""
    folder, slash, base = name.rpartition("/")
    stem, _, extension = base.partition(".")
    return (folder + slash + stem if stem else ""), extension


def _problem_of(member: tar.Member) -> str | None:
    """Says why an image is rejected, None if it is sound."""
    key, extension = split_name(member.name)
    if member.kind != tar.FILE:
        return f"{member.kind}, not a file"
    if not member.sound or _CONTROL.search(member.name):
        return "its name is not UTF-8 or has control characters"
    if member.name.startswith("/") or ".." in member.name.split("/"):
        return "its name leads outside of the tar"
    if not key:
        return "its file name begins with a dot"
    if extension.lower() != "jpg":
        return f"its extension is .{extension}; the benchmark takes .jpg alone"
    if member.data is None:
        return f"{member.size:,} bytes; at most {tar.MAX_MEMBER_BYTES:,} are allowed"
    return jpeg.problem_of(member.data)


@dataclasses.dataclass
class Intake:
    """Turns the members of a tar into records and remembers every one of them.

    Attributes:
        tar_name: name of the tar, which begins its ids.
        ids: of the records given out, in order.
        rejected: (id, reason) of the images that are no records.
        num_images: members that are images, counted before they are looked at.
        num_others: files that are no images, such as .json and .txt.
    """

    tar_name: str
    ids: dict[str, None] = dataclasses.field(default_factory=dict)
    rejected: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    num_images: int = 0
    num_others: int = 0

    def records(self, members: Iterable[tar.Member]) -> Iterator[ImageRecord]:
        """Yields the records of the images among the members."""
        for member in members:
            if member.kind == tar.FOLDER:
                continue
            if not looks_like_image(member.name):
                self.num_others += 1
                continue
            self.num_images += 1
            image_id = self._id(member)
            problem = _problem_of(member)
            if problem is None and image_id in self.ids:
                problem = "another image before it has the same id"
            if problem is not None:
                self.rejected.append((image_id, problem))
                continue
            assert member.data is not None  # _problem_of
            self.ids[image_id] = None
            yield ImageRecord(image_id, member.data)

    def _id(self, member: tar.Member) -> str:
        """The official id; of what has no key or an unprintable one, a printable name."""
        key = split_name(member.name)[0] or member.name
        if _CONTROL.search(key):
            key = key.encode("unicode_escape").decode()
        return f"{self.tar_name}/{key}"


def read_tar(path: pathlib.Path, intake: Intake) -> Iterator[ImageRecord]:
    """Yields the records of a tar.

    Raises:
        DamagedTarError: the tar cannot be read to its end.
    """
    yield from intake.records(tar.members(path, wanted=looks_like_image))
