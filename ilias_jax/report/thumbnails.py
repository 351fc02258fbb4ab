"""Pictures as small data: URIs with their boxes in percent."""

import base64
import dataclasses
import io
import struct

from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from ilias_jax.report.gallery import Box, Picture

MAX_SIDE = 160
_QUALITY = 72
_SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations that swap width and height
# What Pillow raises on bytes from the wild, by its own documentation and by trial.
_DECODE_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    struct.error,
    Image.DecompressionBombError,
)


@dataclasses.dataclass(frozen=True)
class Thumbnail:
    """A picture for the page.

    Attributes:
      data_uri: a JPEG of at most MAX_SIDE pixels a side, upright, without metadata.
      width: pixels of the thumbnail.
      height: pixels of the thumbnail.
      boxes: (x, y, width, height) in percent of the picture, clipped to it.
    """

    data_uri: str
    width: int
    height: int
    boxes: tuple[Box, ...]


@dataclasses.dataclass(frozen=True)
class Placeholder:
    """Stands for a picture that cannot be decoded."""

    reason: str


def thumbnail(picture: Picture) -> Thumbnail | Placeholder:
    """Returns the picture's thumbnail, or a placeholder that says why there is none."""
    try:
        small, full_size = _decode(picture)
    except UnidentifiedImageError:
        # Its own message holds a memory address, which would differ from run to run.
        return Placeholder(f"not a known picture format ({len(picture.jpeg):,} bytes)")
    except _DECODE_ERRORS as error:
        return Placeholder(f"{type(error).__name__}: {error}")
    encoded = io.BytesIO()
    small.save(encoded, "JPEG", quality=_QUALITY, optimize=True)
    data = base64.b64encode(encoded.getvalue()).decode("ascii")
    boxes = tuple(_percent_box(box, full_size) for box in picture.boxes)
    return Thumbnail(f"data:image/jpeg;base64,{data}", small.width, small.height, boxes)


def _decode(picture: Picture) -> tuple[Image.Image, tuple[int, int]]:
    """Returns the small upright picture and the size in pixels of the large upright one."""
    with Image.open(io.BytesIO(picture.jpeg)) as opened:
        width, height = opened.size
        orientation = opened.getexif().get(ExifTags.Base.Orientation, 1)
        opened.draft("RGB", (2 * MAX_SIDE, 2 * MAX_SIDE))
        upright = ImageOps.exif_transpose(opened) if picture.exif_transpose else opened
        small = upright.convert("RGB")
    small.thumbnail((MAX_SIDE, MAX_SIDE))
    small.info.clear()
    sideways = picture.exif_transpose and orientation in _SIDEWAYS
    return small, (height, width) if sideways else (width, height)


def _percent_box(box: Box, size: tuple[int, int]) -> Box:
    x, y, w, h = box
    left, right = (100 * min(max(v / size[0], 0.0), 1.0) for v in (x, x + w))
    top, bottom = (100 * min(max(v / size[1], 0.0), 1.0) for v in (y, y + h))
    return left, top, right - left, bottom - top
