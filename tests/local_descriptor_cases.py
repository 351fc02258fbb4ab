"""Pictures, towers and detectors that a seed defines, of which local descriptors are extracted.

Numpy and Pillow only, as `tests/reference/make_local_descriptor_values.py` reads it where there is
no JAX. Each case has a file of expected values, `tests/data/rerank/descriptors_NAME.npz`, of its
N pictures:

    weights    [N, n] float32 of the strongest tokens, falling; 0 for padding
    locations  [N, n, 2] float32 row and column of their centres as shares of the picture
    values     [N, n / step, D] float32 of every step-th of these
    tokens     [N, 8, D] float32 before the detector, spread evenly over the picture
    counts     [N] int32 tokens of a picture
    layout, detector_layout   bytes of a JSON object: name of each array -> its shape
    versions   of what made it
"""

import dataclasses
import io
import json
import pathlib

import graph_weights
import numpy as np
import parity_weights as seeded
from PIL import ExifTags, Image

FOLDER = pathlib.Path(__file__).parent / "data" / "rerank"
JPEG = FOLDER / "lying.jpg"
_LYING = 6  # the EXIF orientation of a picture that must be turned clockwise
Box = tuple[float, float, float, float]


def some(tokens: np.ndarray) -> np.ndarray:
    """[8, D] of [T, D], spread evenly."""
    return tokens[np.linspace(0, len(tokens) - 1, 8).astype(int)]


@dataclasses.dataclass(frozen=True)
class Picture:
    """A file with a drawn picture; `box` is x, y, width and height of what is cut out."""

    width: int
    height: int
    format: str = "PNG"
    box: Box | None = None

    def file(self) -> bytes:
        """Its bytes; those of a JPEG are stored, as encoders differ."""
        return JPEG.read_bytes() if self.format == "JPEG" else seeded.png(self.pixels())

    def pixels(self) -> np.ndarray:
        """[H, W, 3] uint8."""
        return seeded.pictures(((self.width, self.height),))[0]


# One that shrinks, one that grows and is turned, one of fewer tokens than are wanted, and a part.
PICTURES = (
    Picture(900, 640),
    Picture(160, 120, "JPEG"),
    Picture(300, 4),
    Picture(640, 480, box=(100.0, 50.0, 300.0, 200.0)),
)


def draw_jpeg() -> bytes:
    """A JPEG that lies on its side and says so."""
    exif, buffer = Image.Exif(), io.BytesIO()
    exif[ExifTags.Base.Orientation] = _LYING
    Image.fromarray(PICTURES[1].pixels()).save(buffer, "JPEG", quality=85, exif=exif)
    return buffer.getvalue()


@dataclasses.dataclass(frozen=True)
class DescriptorCase:
    """A tower, a detector and how its extractor prepares pictures.

    Attributes:
        name: of its file.
        extractor: "ames" or "elvis".
        row: the published row that the tower is built as.
        resolution: pixels of a picture's longest side.
        patch_size: of the row.
        count: descriptors of a picture.
        step: of so many one is stored.
        size: width, depth, mlp_dim and num_heads of the tower.
        has_detector: whether there is one.
    """

    name: str
    extractor: str
    row: str
    resolution: int
    patch_size: int
    count: int
    step: int
    size: tuple[int, int, int, int] = (48, 2, 192, 3)
    has_detector: bool = True

    @property
    def path(self) -> pathlib.Path:
        """Its file of expected values."""
        return FOLDER / f"descriptors_{self.name}.npz"

    @property
    def filter(self) -> str:
        """Of the resize."""
        return "area_linear" if self.extractor == "ames" else "bicubic"

    def stored(self) -> dict[str, np.ndarray]:
        """Its expected values."""
        with np.load(self.path) as archive:
            return dict(archive)

    def weights(self, name: str = "layout") -> dict[str, np.ndarray]:
        """Every array of the state dictionary of this layout, the same bits everywhere."""
        layout = json.loads(self.stored()[name].tobytes())
        return graph_weights.draw({key: tuple(shape) for key, shape in layout.items()})


_DINOV2, _DINOV3 = "dinov2_vitb14_reg", "dinov3_vitl16"
_SIGLIP2 = "vit_so400m_patch16_siglip_512.v2_webli"
CASES = (
    DescriptorCase("ames_dinov2", "ames", _DINOV2, 770, 14, 96, 3),
    DescriptorCase("elvis_dinov3", "elvis", _DINOV3, 320, 16, 96, 3),
    DescriptorCase("elvis_siglip2", "elvis", _SIGLIP2, 330, 16, 96, 3),
    DescriptorCase("ames_norms", "ames", _DINOV2, 336, 14, 24, 3, has_detector=False),
)
FULL = DescriptorCase("ames_whole", "ames", _DINOV2, 770, 14, 700, 100, (768, 12, 3072, 12))
