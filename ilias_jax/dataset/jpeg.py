"""Looks at a JPEG's markers up to its frame header, to refuse what is none before it is stored.

ITU-T T.81, annex B: a JPEG begins with the marker SOI; marker segments follow, each with its
length; a frame header (SOF) gives height and width. Nothing is decoded.
"""

_SOI = b"\xff\xd8"
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # the gaps: DHT, JPG, DAC
_ALONE = frozenset(range(0xD0, 0xD8)) | {0x01}  # RSTn and TEM have no length
_LAST = frozenset({0xD9, 0xDA})  # EOI and SOS: no frame header can follow
# Twice the number at which Pillow warns, the one at which it refuses. The largest core image has a
# thousandth of it, and cameras of 2014, the year of YFCC100M, at most half.
MAX_PIXELS = 178_956_970
_OTHERS = {
    b"\x89PNG": "a PNG",
    b"GIF8": "a GIF",
    b"BM": "a BMP",
    b"II*\0": "a TIFF",
    b"MM\0*": "a TIFF",
    b"RIFF": "a RIFF file, perhaps WebP",
    b"<": "markup, perhaps an error page",
}


def size_of(data: bytes) -> tuple[int, int] | None:
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


def problem_of(data: bytes) -> str | None:
    """Says why bytes cannot be stored as an image; None where they can."""
    if not data:
        return "empty"
    if data[:2] != _SOI:
        looks = next((what for start, what in _OTHERS.items() if data.startswith(start)), None)
        return "not a JPEG: it does not begin with FF D8" + (
            f", it looks like {looks}" * bool(looks)
        )
    size = size_of(data)
    if size is None:
        return "not a JPEG: it has no frame header"
    width, height = size
    if not 0 < width * height <= MAX_PIXELS:
        return f"{width} x {height} pixels; at least 1 and at most {MAX_PIXELS:,} are allowed"
    return None
