"""What the report's gallery is made of: queries, their top results, and pictures with boxes."""

import dataclasses
import math

SECTIONS = ("image_to_image", "text_to_image")
GROUPS = ("best", "worst")

Box = tuple[float, float, float, float]


def _require_member(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} is {value!r}; allowed: {', '.join(allowed)}")


def _require_finite(name: str, value: float) -> None:
    if not math.isfinite(value):
        raise ValueError(f"{name} is {value!r}; it must be a finite number")


@dataclasses.dataclass(frozen=True)
class Picture:
    """One encoded picture and the object boxes on it.

    Attributes:
      jpeg: the encoded bytes, as stored in the dataset. They may be broken: the page then shows a
        placeholder with the reason.
      boxes: (x, y, width, height) in pixels of the upright picture, from its top left corner.
      exif_transpose: whether the EXIF orientation is applied to make the picture upright.
    """

    jpeg: bytes
    boxes: tuple[Box, ...] = ()
    exif_transpose: bool = False

    def __post_init__(self) -> None:
        """Raises ValueError for a box that is not four finite numbers with a size >= 0."""
        for box in self.boxes:
            if len(box) != 4 or not all(math.isfinite(v) for v in box) or min(box[2:]) < 0:
                raise ValueError(f"box is {box!r}; expected finite x, y, width >= 0, height >= 0")


@dataclasses.dataclass(frozen=True)
class GalleryResult:
    """One database image returned for a query; rank 1 is the best, score an inner product."""

    image_id: str
    rank: int
    score: float
    is_positive: bool
    picture: Picture

    def __post_init__(self) -> None:
        """Raises ValueError for a rank below 1 or a score that is not finite."""
        if self.rank < 1:
            raise ValueError(f"rank of {self.image_id!r} is {self.rank}; ranks start at 1")
        _require_finite(f"score of {self.image_id!r}", self.score)


@dataclasses.dataclass(frozen=True)
class GalleryEntry:
    """One query with its top results.

    Attributes:
      section: "image_to_image" or "text_to_image".
      group: "best" or "worst".
      query_id: the query's image id.
      text: the description a text query consists of; None for an image query.
      picture: the picture an image query consists of; None for a text query.
      ap: average precision in percent, 0 to 100.
      num_positives: how many database images show the query's object.
      results: the top results, best first.
    """

    section: str
    group: str
    query_id: str
    text: str | None
    picture: Picture | None
    ap: float
    num_positives: int
    results: tuple[GalleryResult, ...]

    def __post_init__(self) -> None:
        """Raises ValueError for an unknown section or group, or an AP that is not finite."""
        _require_member(f"section of {self.query_id!r}", self.section, SECTIONS)
        _require_member(f"group of {self.query_id!r}", self.group, GROUPS)
        _require_finite(f"AP of {self.query_id!r}", self.ap)
