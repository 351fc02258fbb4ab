"""Images as cameras, phones and damaged disks leave them, made here byte by byte."""

import io
import struct

import numpy as np
from PIL import Image

SIZE = (37, 23)


def _picture(mode: str = "RGB", size: tuple[int, int] = SIZE) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
    image = Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)
    if mode == "I;16":
        return Image.fromarray(np.asarray(image.convert("L"), np.uint16) * 257)
    return image.convert(mode)


def _saved(form: str = "JPEG", mode: str = "RGB", size: tuple[int, int] = SIZE, **options) -> bytes:
    buffer = io.BytesIO()
    _picture(mode, size).save(buffer, form, **options)
    return buffer.getvalue()


def _segment(marker: int, data: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(data) + 2) + data


def _after_soi(data: bytes, more: bytes) -> bytes:
    return data[:2] + more + data[2:]


def _exif(*entries: tuple[int, int, int, bytes]) -> bytes:
    """An EXIF segment: entries are tag, type, count and the four bytes of value or offset."""
    packed = b"".join(struct.pack("<HHL", *entry[:3]) + entry[3] for entry in entries)
    tiff = b"II*\0" + struct.pack("<LH", 8, len(entries)) + packed + bytes(4)
    return _segment(0xE1, b"Exif\0\0" + tiff)


def _orientation(value: int, kind: int = 3) -> tuple[int, int, int, bytes]:
    return 0x0112, kind, 1, struct.pack("<L", value)


def _frame(data: bytes, **fields: int) -> bytes:
    """With other fields in the frame header: marker, precision."""
    out, start = bytearray(data), data.index(b"\xff\xc0")
    for name, value in fields.items():
        out[start + {"marker": 1, "precision": 4}[name]] = value
    return bytes(out)


PLAIN = _saved()
CMYK = _saved(mode="CMYK")
_XMP = b"http://ns.adobe.com/xap/1.0/\0"
# Tag, type and value that are read, and that Pillow fails to write back in another way each.
UNWRITABLE = [
    (0x100, 1, 0),
    (0x100, 6, 0xFFFFFFFF),
    (0x100, 16, 0),
    (0x10F, 11, 0),
    (0x11A, 2, 0),
    (0x11A, 11, 0xFFFFFFFF),
    (0x8769, 9, 0x80000001),
]

# Name -> bytes, and the orientation that a core image is turned by.
ODD: dict[str, tuple[bytes, int]] = {
    "plain": (PLAIN, 1),
    **{f"orientation {n}": (_after_soi(PLAIN, _exif(_orientation(n))), n) for n in range(1, 9)},
    "orientation 0": (_after_soi(PLAIN, _exif(_orientation(0))), 1),
    "orientation 9": (_after_soi(PLAIN, _exif(_orientation(9))), 1),
    "orientation as long": (_after_soi(PLAIN, _exif(_orientation(6, 4))), 6),
    "orientation as byte": (_after_soi(PLAIN, _exif(_orientation(6, 1))), 1),
    "orientation as text": (_after_soi(PLAIN, _exif(_orientation(0x36, 2))), 1),
    **{
        f"orientation beside tag {tag:#x} of type {kind}": (
            _after_soi(PLAIN, _exif(_orientation(6), (tag, kind, 1, struct.pack("<L", value)))),
            6,
        )
        for tag, kind, value in UNWRITABLE
    },
    "orientation beside an offset beyond the end": (
        _after_soi(PLAIN, _exif(_orientation(6), (0x010F, 2, 99, struct.pack("<L", 9999)))),
        6,
    ),
    "orientation twice": (_after_soi(PLAIN, _exif(_orientation(3), _orientation(6))), 3),
    "EXIF twice": (_after_soi(PLAIN, _exif(_orientation(6)) + _exif(_orientation(3))), 6),
    "EXIF that is cut": (
        _after_soi(PLAIN, _segment(0xE1, _exif(_orientation(6))[4:20])),
        1,
    ),
    "EXIF that is no TIFF": (_after_soi(PLAIN, _segment(0xE1, b"Exif\0\0??*\0" + bytes(9))), 1),
    "EXIF of nothing": (_after_soi(PLAIN, _segment(0xE1, b"Exif\0\0")), 1),
    "EXIF with a thumbnail": (_after_soi(PLAIN, _segment(0xE1, b"Exif\0\0" + PLAIN)), 1),
    "orientation of XMP": (
        _after_soi(PLAIN, _segment(0xE1, _XMP + b'<x tiff:Orientation="8"/>')),
        8,
    ),
    "XMP of a megabyte": (
        _after_soi(PLAIN, _segment(0xE1, _XMP + b" " * 60_000) * 18),
        1,
    ),
    "ICC": (_saved(icc_profile=b"p" * 200_000), 1),
    "gray": (_saved(mode="L"), 1),
    "CMYK": (CMYK, 1),
    "YCCK": (CMYK.replace(b"Adobe\0d\0\0\0\0\0", b"Adobe\0d\0\0\0\0\2"), 1),
    "RGB without transform": (_saved(keep_rgb=True), 1),
    "subsampled": (_saved(subsampling=2), 1),
    "progressive": (_saved(progressive=True), 1),
    "arithmetic": (_frame(PLAIN, marker=0xC9), 1),
    "lossless": (_frame(PLAIN, marker=0xC3), 1),
    "12 bits": (_frame(PLAIN, precision=12), 1),
    "restart markers": (_saved(restart_marker_blocks=1), 1),
    "a comment of 999 bytes": (_saved(comment=b"c" * 999), 1),
    "a comment without length": (_after_soi(PLAIN, b"\xff\xfe\0\0"), 1),
    "bytes between segments": (PLAIN[:20] + b"junk" + PLAIN[20:], 1),
    "zeros between segments": (PLAIN[:20] + bytes(7) + PLAIN[20:], 1),
    "bytes before the first segment": (_after_soi(PLAIN, b"junk"), 1),
    "fill bytes": (_after_soi(PLAIN, b"\xff\xff\xff\x01"), 1),
    "bytes before the start": (b"\n" + PLAIN, 1),
    "bytes behind the end": (PLAIN + b"more" * 99, 1),
    "another image behind the end": (PLAIN + CMYK, 1),
    "without end": (PLAIN[:-2], 1),
    "cut in its pixels": (PLAIN[:-99], 1),
    "cut in its header": (PLAIN[:99], 1),
    "1 x 1": (_saved(size=(1, 1)), 1),
    "65,500 wide": (_saved(size=(65_500, 1)), 1),
    "65,500 high": (_saved(size=(1, 65_500)), 1),
    "MPO": (
        _saved("MPO", save_all=True, append_images=[_picture()], exif=_exif(_orientation(6))[4:]),
        6,
    ),
    "PNG": (_saved("PNG"), 1),
    "PNG with orientation": (_saved("PNG", exif=_exif(_orientation(6))[10:]), 6),
    "PNG with a palette": (_saved("PNG", "P"), 1),
    "PNG with alpha": (_saved("PNG", "RGBA"), 1),
    "PNG of 16 bits": (_saved("PNG", "I;16"), 1),
    "PNG of 1 bit": (_saved("PNG", "1"), 1),
    "PNG that is cut": (_saved("PNG")[:-99], 1),
    "GIF": (_saved("GIF"), 1),
    "GIF that moves": (_saved("GIF", save_all=True, append_images=[_picture("L")]), 1),
    "WebP": (_saved("WEBP", lossless=True), 1),
    "BMP": (_saved("BMP"), 1),
    "TIFF": (_saved("TIFF", "CMYK"), 1),
    "PPM": (_saved("PPM"), 1),
    "JPEG 2000": (_saved("JPEG2000"), 1),
    "a page": (b"<html>503</html>", 1),
    "nothing": (b"", 1),
    "a start alone": (b"\xff\xd8", 1),
    "PostScript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", 1),
}
