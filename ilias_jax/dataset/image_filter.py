"""Which bytes are images that can be stored, and which members of a tar are images.

Nothing is decoded: a JPEG (ITU-T T.81, annex B) begins with the marker SOI; marker segments follow,
each with its length; a frame header (SOF) gives height and width.
"""

import dataclasses
import re
from collections.abc import Iterable, Iterator

from ilias_jax.dataset import tars
from ilias_jax.dataset.layout import ImageRecord

_SOI = b"\xff\xd8"
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # the gaps: DHT, JPG, DAC
_ALONE = frozenset(range(0xD0, 0xD8)) | {0x01}  # RSTn and TEM have no length
_LAST = frozenset({0xD9, 0xDA})  # EOI and SOS: no frame header can follow
# Twice the number at which Pillow warns, the one at which it refuses. The largest core image has a
# thousandth of it, and cameras of 2014, the year of YFCC100M, at most half.
MAX_PIXELS = 178_956_970
_OTHERS = {
    **{b"\x89PNG": "a PNG", b"GIF8": "a GIF", b"BM": "a BMP", b"II*\0": "a TIFF"},
    **{b"MM\0*": "a TIFF", b"RIFF": "a RIFF file, perhaps WebP"},
    b"<": "markup, perhaps an error page",
}


def jpeg_size(data: bytes) -> tuple[int, int] | None:
    """(width, height) from a JPEG's first frame header; None without SOI or frame header."""
    if data[:2] != _SOI:
        return None
    place, end = 2, len(data)
    while place + 4 <= end and data[place] == 0xFF:
        marker = data[place + 1]
        if marker == 0xFF:  # fill byte
            place += 1
        elif marker in _ALONE:
            place += 2
        elif marker in _FRAMES:
            if place + 9 > end:
                return None
            height = data[place + 5] << 8 | data[place + 6]
            return data[place + 7] << 8 | data[place + 8], height
        elif marker in _LAST:
            return None
        else:
            place += 2 + (data[place + 2] << 8 | data[place + 3])
    return None


def image_problem(data: bytes) -> str | None:
    """Says why bytes cannot be stored as an image, None where they can; nothing is decoded."""
    if not data:
        return "empty"
    if data[:2] != _SOI:
        looks = [what for start, what in _OTHERS.items() if data.startswith(start)]
        return "not a JPEG: it does not begin with FF D8" + "".join(
            f", it looks like {what}" for what in looks
        )
    size = jpeg_size(data)
    if size is None:
        return "not a JPEG: it has no frame header"
    width, height = size
    if not 0 < width * height <= MAX_PIXELS:
        return f"{width} x {height} pixels; at least 1 and at most {MAX_PIXELS:,} are allowed"
    return None


# Names that mean an image to anyone: none of them may vanish without a word.
_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".webp", ".bmp", ".tif", ".tiff")
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")  # would break a line of an id file


def looks_like_image(name: str) -> bool:
    """Whether a member's name claims to be an image."""
    return name.lower().endswith(_IMAGE_SUFFIXES)


def split_name(name: str) -> tuple[str, str]:
    """(key, extension) as WebDataset has them: cut at the first dot of the base name.

    A base name that begins with a dot has no key. The official toolkit takes a member as an image
    if its extension is `jpg`.
    """
    folder, slash, base = name.rpartition("/")
    stem, _, extension = base.partition(".")
    return (folder + slash + stem if stem else ""), extension


def _member_problem(member: tars.Member) -> str | None:
    """Says why an image is rejected, None if it is sound."""
    key, extension = split_name(member.name)
    if member.kind != tars.FILE:
        return f"{member.kind}, not a file"
    if not member.is_utf8 or _CONTROL.search(member.name):
        return "its name is not UTF-8 or has control characters"
    if member.name.startswith("/") or ".." in member.name.split("/"):
        return "its name leads outside of the tar"
    if not key:
        return "its file name begins with a dot"
    if extension.lower() != "jpg":
        return f"its extension is .{extension}; the benchmark takes .jpg alone"
    if member.data is None:
        return f"{member.size:,} bytes; at most {tars.MAX_MEMBER_BYTES:,} are allowed"
    return image_problem(member.data)


@dataclasses.dataclass
class ImageFilter:
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

    def records(self, found: Iterable[tars.Member]) -> Iterator[ImageRecord]:
        """Yields the records of the images among the members."""
        for member in found:
            if member.kind == tars.FOLDER:
                continue
            if not looks_like_image(member.name):
                self.num_others += 1
                continue
            self.num_images += 1
            image_id = self._id(member)
            problem = _member_problem(member)
            if problem is None and image_id in self.ids:
                problem = "another image before it has the same id"
            if problem is not None:
                self.rejected.append((image_id, problem))
                continue
            assert member.data is not None  # _member_problem
            self.ids[image_id] = None
            yield ImageRecord(image_id, member.data)

    def _id(self, member: tars.Member) -> str:
        """The official id; of what has no key or an unprintable one, a printable name."""
        key = split_name(member.name)[0] or member.name
        if _CONTROL.search(key):
            key = key.encode("unicode_escape").decode()
        return f"{self.tar_name}/{key}"
