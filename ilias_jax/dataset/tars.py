"""Reads tars member by member in one pass, trusts nothing that they say, and finds their images.

Python's tarfile takes a tar that was cut between members for whole, follows claimed sizes, and is
too slow; it is the tests' oracle. Nothing is ever extracted, so no name can lead outside.

What is *in* the tar but no plain file (links, devices, sparse files) is a member of another kind,
for the caller to reject. What makes the *rest* of the tar unreadable is a `DamagedTarError`, which
names the file and the byte: a header with a wrong checksum or size, data that reaches beyond the
end of the file, a missing end mark, bytes after the end mark.

Formats: v7, POSIX ustar and pax, GNU with long names and sizes in base 256.

Images are not decoded: a JPEG (ITU-T T.81, annex B) begins with the marker SOI; marker segments
follow, each with its length; a frame header (SOF) gives height and width. Pillow, the official
reader, also opens JPEGs with bytes between the segments, and images of other formats under the name
.jpg: what is not such a JPEG is shown to it.
"""

import dataclasses
import io
import os
import pathlib
import re
from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO

from PIL import Image

from ilias_jax.dataset import layout
from ilias_jax.dataset.layout import ImageRecord
from ilias_jax.errors import UserError, quoted
from ilias_jax.files import packed_as, reading

BLOCK = 512
MAX_MEMBER_BYTES = 256 << 20  # of a member whose data is read; the mean image has 63 KB
_MAX_NAME_BYTES = 1 << 16  # of a long name or a pax header
# One read of the file: it stays in a core's cache until it is written, which 8 MiB do not.
_BUFFER_BYTES = 1 << 20
_ZEROS = bytes(BLOCK)
FILE, FOLDER, _SPARSE = "a file", "a folder", "a sparse file"
_KINDS = {
    **{b"0": FILE, b"\0": FILE, b"7": FILE, b"5": FOLDER, b"S": _SPARSE},
    **{b"1": "a hard link", b"2": "a symbolic link", b"6": "a named pipe"},
    **{b"3": "a character device", b"4": "a block device"},
}
_WITHOUT_DATA = frozenset(b"123456")  # whatever size their header claims
_SOI = b"\xff\xd8"
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # the gaps: DHT, JPG, DAC
_ALONE = frozenset(range(0xD0, 0xD8)) | {0x01}  # RSTn and TEM have no length
_LAST = frozenset({0xD9, 0xDA})  # EOI and SOS: no frame header can follow
# Twice the number at which Pillow warns, the one at which it refuses. The largest core image has a
# thousandth of it, and cameras of 2014, the year of YFCC100M, at most half.
MAX_PIXELS = 178_956_970
# Names that mean an image to anyone: none of them may vanish without a word.
_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".webp", ".bmp", ".tif", ".tiff")
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")  # would break a line of an id file


class DamagedTarError(UserError):
    """A tar that cannot be read to its end; others can still be converted."""


@dataclasses.dataclass(frozen=True, slots=True)
class Member:
    """One member of a tar."""

    name: str  # as stored; bytes that are not UTF-8 are written as in "\xff"
    kind: str  # FILE, FOLDER, or in words what else it is
    offset: int  # byte of the tar at which its data begins
    size: int  # bytes of data, as the header has it
    data: bytes | None  # its bytes, if it is a file that was wanted and small enough
    is_utf8: bool = True  # whether the name is UTF-8


def members(
    path: pathlib.Path, is_wanted: Callable[[str], bool] = lambda name: True
) -> Iterator[Member]:
    """Yields the members of a tar in order, with the data of those whose names are wanted.

    Raises:
        DamagedTarError: the tar cannot be read to its end.
    """
    with reading(path), path.open("rb", buffering=_BUFFER_BYTES) as file:
        if hasattr(os, "posix_fadvise"):  # so that the disk reads while records are written
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)
        yield from _Scanner(file, path, is_wanted).members()


class _Scanner:
    def __init__(
        self, file: BinaryIO, path: pathlib.Path, is_wanted: Callable[[str], bool]
    ) -> None:
        self._file, self._path, self._is_wanted = file, path, is_wanted
        self._num_bytes = os.fstat(file.fileno()).st_size
        self._offset = 0  # of the header at hand
        self._extended: dict[bytes, bytes] = {}  # pax records for the next member

    def members(self) -> Iterator[Member]:
        while (header := self._file.read(BLOCK)) != _ZEROS:
            if not self._offset and (packed := packed_as(header)):
                raise DamagedTarError(f"{self._path} is {packed}; unpack it, and convert again")
            if len(header) < BLOCK:
                raise self._damage("no end of archive, the file is cut")
            self._check_sum(header)
            kind = header[156:157]
            if kind in (b"L", b"K", b"x", b"X", b"g"):
                self._extend(kind, header)
            else:
                yield self._member(header, kind)
        self._check_rest()

    def _damage(self, what: str) -> DamagedTarError:
        return DamagedTarError(
            f"{self._path} is damaged at byte {self._offset:,} ({what}); download it again"
        )

    def _check_sum(self, header: bytes) -> None:
        """Compares a header with its own checksum, its field counted as blanks."""
        rest = header[:148] + header[156:]
        wanted = self._number(header[148:156], "checksum")
        if wanted != 256 + sum(rest):
            signed = 256 + sum(byte - 256 if byte > 127 else byte for byte in rest)
            if wanted != signed:  # some old programs add signed bytes
                raise self._damage("no tar header here: its checksum is wrong")

    def _number(self, field: bytes, what: str) -> int:
        """Octal digits, or GNU's base 256 where the first bit is set."""
        if field[0] == 0x80:
            return int.from_bytes(field[1:], "big")
        try:
            number = int(field.strip(b"\0 ") or b"0", 8)
        except ValueError:
            number = -1
        if number < 0:
            raise self._damage(f"its header has the {what} {quoted(field)}")
        return number

    def _size(self, header: bytes) -> int:
        if (text := self._extended.get(b"size")) is not None:
            if not text.isdigit() or len(text) > 20:
                raise self._damage(f"its pax header has the size {text[:20]!r}")
            size = int(text)
        else:
            size = self._number(header[124:136], "size")
        left = self._num_bytes - self._offset - BLOCK
        if size > left:
            raise self._damage(f"a member claims {size:,} bytes, but {max(left, 0):,} are left")
        return size

    def _extend(self, kind: bytes, header: bytes) -> None:
        """Keeps what a long name or a pax header says of the next member."""
        size = self._number(header[124:136], "size")
        if size > _MAX_NAME_BYTES:
            raise self._damage(f"a long name or pax header claims {size:,} bytes")
        data = self._file.read(size)
        if len(data) < size:
            raise self._damage("a long name or pax header is cut")
        self._file.read(-size % BLOCK)
        self._offset += BLOCK + size + -size % BLOCK
        if kind == b"L":
            self._extended[b"path"] = data.split(b"\0")[0]
        elif kind in (b"x", b"X"):
            self._extended |= self._records(data)
        elif kind == b"g" and (odd := self._records(data).keys() & {b"path", b"size"}):
            raise self._damage(f"a global header sets {sorted(odd)} of all members")

    def _records(self, data: bytes) -> dict[bytes, bytes]:
        """Pax records: `length key=value\\n`, the length in decimal and of the whole record."""
        records = {}
        while data.strip(b"\0"):
            digits = data.partition(b" ")[0]
            length = int(digits) if digits.isdigit() and len(digits) < 8 else 0
            key, equals, value = data[len(digits) + 1 : length - 1].partition(b"=")
            if not equals or data[length - 1 : length] != b"\n":
                raise self._damage("its pax header is malformed")
            records[key] = value
            data = data[length:]
        return records

    def _member(self, header: bytes, kind: bytes) -> Member:
        raw = self._name(header)
        size = 0 if kind in _WITHOUT_DATA else self._size(header)
        words = _KINDS.get(kind, f"a member of the unknown type {kind!r}")
        if kind == b"\0" and raw.endswith(b"/"):
            words = FOLDER
        if any(key.startswith(b"GNU.sparse.") for key in self._extended):
            words = _SPARSE
        if kind == b"S":
            self._skip_sparse_map(header)
        self._extended = {}
        try:
            name, is_utf8 = raw.decode(), True
        except UnicodeDecodeError:
            name, is_utf8 = raw.decode(errors="backslashreplace"), False
        offset, padding = self._offset + BLOCK, -size % BLOCK
        data = None
        if words == FILE and size <= MAX_MEMBER_BYTES and self._is_wanted(name):
            data = self._file.read(size)
            if len(data) < size:
                raise self._damage("its data is cut")
            self._file.read(padding)
        elif size:
            self._file.seek(size + padding, os.SEEK_CUR)
        self._offset = offset + size + padding
        return Member(name, words, offset, size, data, is_utf8)

    def _name(self, header: bytes) -> bytes:
        """The pax or GNU long name, or the header's own with the prefix of ustar."""
        long = self._extended.get(b"GNU.sparse.name", self._extended.get(b"path"))
        if long is not None:
            return long
        name = header[:100].partition(b"\0")[0]
        prefix = header[345:500].partition(b"\0")[0] if header[257:263] == b"ustar\0" else b""
        return prefix + b"/" + name if prefix else name

    def _skip_sparse_map(self, header: bytes) -> None:
        """Passes the blocks that continue a GNU sparse header; a flag says whether one follows."""
        flag = header[482]
        while flag:
            block = self._file.read(BLOCK)
            if len(block) < BLOCK:
                raise self._damage("its sparse map is cut")
            self._offset += BLOCK
            flag = block[504]

    def _check_rest(self) -> None:
        """Nothing but zeros may follow the end mark: a second tar there would be lost silently.

        The mark is two blocks of zeros; one is enough here, for all members came before it.
        """
        self._offset += BLOCK
        while block := self._file.read(_BUFFER_BYTES):
            if block.count(0) != len(block):
                raise self._damage("the archive ends here, but more than zeros follow")
            self._offset += len(block)


def jpeg_size(data: bytes) -> tuple[int, int] | None:
    """(width, height) from a JPEG's first frame header; None without SOI or frame header."""
    if data[:2] != _SOI:
        return None
    offset, end = 2, len(data)
    while offset + 4 <= end and data[offset] == 0xFF:
        marker = data[offset + 1]
        if marker == 0xFF:  # fill byte
            offset += 1
        elif marker in _ALONE:
            offset += 2
        elif marker in _FRAMES:
            if offset + 9 > end:
                return None
            height = data[offset + 5] << 8 | data[offset + 6]
            return data[offset + 7] << 8 | data[offset + 8], height
        elif marker in _LAST:
            return None
        else:
            offset += 2 + (data[offset + 2] << 8 | data[offset + 3])
    return None


def _size_by_pillow(data: bytes) -> tuple[int, int] | None:
    """(width, height) of what Pillow opens, which reads no pixel; None if it opens nothing."""
    try:
        with Image.open(io.BytesIO(data), formats=layout.IMAGE_FORMATS) as image:
            return image.size
    except (Image.DecompressionBombError, MemoryError):
        raise  # too large, or the machine's fault
    except Exception:  # Pillow's parsers let through whatever damaged bytes trip
        return None


def image_problem(data: bytes) -> str | None:
    """Says why bytes cannot be stored as an image, None where they can; nothing is decoded."""
    if not data:
        return "empty"
    try:
        size = jpeg_size(data) or _size_by_pillow(data)
    except Image.DecompressionBombError:
        return f"more than {MAX_PIXELS:,} pixels"
    if size is None:
        like = ", it looks like markup, perhaps an error page" if data.startswith(b"<") else ""
        return f"not an image in {' '.join(layout.IMAGE_FORMATS)}{like}"
    width, height = size
    if not 0 < width * height <= MAX_PIXELS:
        return f"{width} x {height} pixels; at least 1 and at most {MAX_PIXELS:,} are allowed"
    return None


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


def _member_problem(member: Member) -> str | None:
    key, extension = split_name(member.name)
    if member.kind != FILE:
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
        return f"{member.size:,} bytes; at most {MAX_MEMBER_BYTES:,} are allowed"
    return image_problem(member.data)


@dataclasses.dataclass
class ImageFilter:
    """Turns the members of a tar into records and remembers every one of them."""

    tar_name: str  # name of the tar, which begins its ids
    ids: dict[str, None] = dataclasses.field(default_factory=dict)  # of the records, in order
    # (id, reason) of the images that are no records.
    rejected: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    num_images: int = 0  # members that are images, counted before they are looked at
    num_others: int = 0  # files that are no images, such as .json and .txt

    def records(self, found: Iterable[Member]) -> Iterator[ImageRecord]:
        """Yields the records of the images among the members."""
        for member in found:
            if member.kind == FOLDER:
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

    def _id(self, member: Member) -> str:
        """The official id; of what has no key or an unprintable one, a printable name."""
        key = split_name(member.name)[0] or member.name
        if _CONTROL.search(key):
            key = key.encode("unicode_escape").decode()
        return f"{self.tar_name}/{key}"
