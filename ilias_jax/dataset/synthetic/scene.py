"""Takes pictures of things: pose, light, clutter, occlusion and the JPEG of one record."""

import dataclasses
import io
import math

import numpy as np
from PIL import Image, ImageDraw

from ilias_jax.dataset.synthetic.drawing import SIZE, draw_sprite
from ilias_jax.dataset.synthetic.objects import Thing

Box = tuple[int, int, int, int]  # x, y, width, height in pixels of the picture as shown

# One interval for every official group (`protocol: metric`), and the ends of the world's own range.
AREA_RATIOS = ((0.035, 0.0688), (0.0689, 0.1352), (0.1353, 0.2729), (0.273, 0.6))
CLUTTER = ((3, 17), (18, 32), (33, 52), (53, 75))
_EXIF_ORIENTATION = 0x0112


@dataclasses.dataclass(frozen=True)
class View:
    """How a picture is to be taken."""

    area_ratio: float  # wanted share of the picture that the object's box covers, in (0, 1)
    clutter: int  # number of other pieces in the picture; 0 gives a clean background


@dataclasses.dataclass(frozen=True)
class Picture:
    """A rendered picture."""

    jpeg: bytes  # the encoded bytes
    box: Box  # the object's box in the upright picture
    area_ratio: float  # the box's share of the picture, in (0, 1]
    clutter: int  # the number of other pieces drawn


def sample_view(rng: np.random.Generator, group: int | None = None) -> View:
    """Draws a cluttered view; `group` (0-3) fixes the scale group, which is random otherwise."""
    low, high = AREA_RATIOS[int(rng.integers(4)) if group is None else group]
    least, most = CLUTTER[int(rng.integers(4))]
    area = math.exp(rng.uniform(math.log(low), math.log(high)))
    return View(area, int(rng.integers(least, most + 1)))


def sample_clean_view(rng: np.random.Generator) -> View:
    """Draws a query's view: the object large on a clean background."""
    return View(float(rng.uniform(0.3, 0.6)), 0)


def _picture_size(rng: np.random.Generator) -> tuple[int, int]:
    """Width and height: long side 160 to 500, short side at least 96, either way up."""
    longest = int(rng.integers(160, 501))
    shortest = max(96, int(longest * rng.choice([1.0, 0.8, 0.75, 0.75, 0.667, 0.5625])))
    return (longest, shortest) if rng.random() < 0.65 else (shortest, longest)


def _background(rng: np.random.Generator, size: tuple[int, int], clean: bool) -> Image.Image:
    """A plain wall for a query, soft blotches of muted colours otherwise."""
    if clean:
        wall = rng.integers(190, 246) + rng.integers(-8, 9, 3)
        return Image.new("RGB", size, tuple(int(v) for v in wall))
    base = rng.integers(50, 206, 3)
    coarse = np.clip(base + rng.normal(0, 32, (4, 5, 3)), 0, 255).astype(np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def _draw_piece(
    rng: np.random.Generator, draw: ImageDraw.ImageDraw, x: float, y: float, radius: float
) -> None:
    color = tuple(int(value) for value in rng.integers(0, 256, 3))
    shape = int(rng.integers(4))
    a, b = radius * rng.uniform(0.4, 1.0, 2)
    if shape == 0:
        draw.ellipse((x - a, y - b, x + a, y + b), fill=color)
        return
    if shape == 3:
        angle = rng.uniform(0, math.pi)
        dx, dy = radius * math.cos(angle), radius * math.sin(angle)
        draw.line((x - dx, y - dy, x + dx, y + dy), fill=color, width=max(1, int(b / 3)))
        return
    corners = 3 if shape == 1 else 4
    angles = rng.uniform(0, 2 * math.pi) + np.arange(corners) * 2 * math.pi / corners
    points = [(x + a * math.cos(t), y + b * math.sin(t)) for t in angles]
    draw.polygon(points, fill=color)


def _pose(
    rng: np.random.Generator, sprite: Image.Image, size: tuple[int, int], area: float, calm: bool
) -> Image.Image:
    """The sprite turned, sheared and scaled so that its box covers about `area` of the picture."""
    turn = rng.normal(0, 6 if calm else 16)
    squeeze = rng.uniform(0.9, 1.0) if calm else rng.uniform(0.72, 1.0)
    shear = rng.normal(0, 0.03 if calm else 0.1)
    cos, sin = math.cos(math.radians(turn)), math.sin(math.radians(turn))
    forward = np.array([[cos, -sin], [sin, cos]]) @ np.array([[squeeze, shear], [0.0, 1.0]])
    inverse = np.linalg.inv(forward)
    side, middle = int(SIZE * 1.3), SIZE * 0.65
    shift = np.array([SIZE / 2, SIZE / 2]) - inverse @ np.array([middle, middle])
    (a, b), (d, e) = inverse
    affine = (a, b, shift[0], d, e, shift[1])
    bilinear = Image.Resampling.BILINEAR
    posed = sprite.transform((side, side), Image.Transform.AFFINE, affine, resample=bilinear)
    posed = posed.crop(posed.getchannel("A").point(lambda v: 255 * (v > 64)).getbbox())
    scale = math.sqrt(area * size[0] * size[1] / (posed.width * posed.height))
    scale = min(scale, 0.97 * size[0] / posed.width, 0.97 * size[1] / posed.height)
    shape = (max(8, round(posed.width * scale)), max(8, round(posed.height * scale)))
    return posed.resize(shape, Image.Resampling.BICUBIC)


def _light(rng: np.random.Generator, canvas: Image.Image, calm: bool) -> Image.Image:
    """Multiplies by a slightly coloured light that falls from one side."""
    strength = 0.08 if calm else 0.22
    color = 1 + rng.normal(0, strength / 3, 3) + rng.normal(0, strength / 2)
    slope = rng.normal(0, strength, 2)
    x = np.linspace(-1, 1, canvas.width, dtype=np.float32)[None, :, None]
    y = np.linspace(-1, 1, canvas.height, dtype=np.float32)[:, None, None]
    gain = (1 + np.float32(slope[0]) * x + np.float32(slope[1]) * y) * color.astype(np.float32)
    lit = np.asarray(canvas, np.float32) * np.clip(gain, 0.45, 1.5)
    return Image.fromarray(np.clip(lit, 0, 255).astype(np.uint8))


def _occlude(rng: np.random.Generator, canvas: Image.Image, box: Box) -> None:
    draw = ImageDraw.Draw(canvas)
    x, y, width, height = box
    for _ in range(int(rng.integers(0, 3))):
        angle = rng.uniform(0, 2 * math.pi)
        cx = x + width * (0.5 + 0.5 * math.cos(angle))
        cy = y + height * (0.5 + 0.5 * math.sin(angle))
        _draw_piece(rng, draw, cx, cy, 0.25 * min(width, height))


def _encode(rng: np.random.Generator, canvas: Image.Image, orientation: int) -> bytes:
    """JPEG bytes; with an EXIF orientation other than 1 the stored pixels are turned to match."""
    buffer = io.BytesIO()
    exif = Image.Exif()
    if orientation == 6:  # shown after a quarter turn clockwise
        canvas = canvas.transpose(Image.Transpose.ROTATE_90)
        exif[_EXIF_ORIENTATION] = 6
    canvas.save(buffer, "JPEG", quality=int(rng.integers(72, 93)), exif=exif)
    return buffer.getvalue()


def take_picture(
    rng: np.random.Generator, thing: Thing, view: View, orientation: int = 1
) -> Picture:
    """Renders one picture of one thing; `rng` decides what the view leaves open.

    The EXIF orientation is 1 (upright) or 6: pixels are stored a quarter turn anticlockwise, so
    that a reader who follows EXIF sees them upright.
    """
    calm = view.clutter == 0
    canvas = _background(rng, _picture_size(rng), calm)
    draw, diagonal = ImageDraw.Draw(canvas), math.hypot(*canvas.size)
    for _ in range(view.clutter):
        x, y = rng.uniform(0, canvas.width), rng.uniform(0, canvas.height)
        _draw_piece(rng, draw, x, y, diagonal * rng.uniform(0.015, 0.07))
    posed = _pose(rng, draw_sprite(thing), canvas.size, view.area_ratio, calm)
    left = int(rng.integers(0, canvas.width - posed.width + 1))
    top = int(rng.integers(0, canvas.height - posed.height + 1))
    canvas.paste(posed, (left, top), posed)
    box = (left, top, posed.width, posed.height)
    if not calm:
        _occlude(rng, canvas, box)
    canvas = _light(rng, canvas, calm)
    area = posed.width * posed.height / (canvas.width * canvas.height)
    return Picture(_encode(rng, canvas, orientation), box, area, view.clutter)
