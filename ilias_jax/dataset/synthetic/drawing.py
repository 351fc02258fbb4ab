"""Draws an object of the miniature world, upright and alone, as an RGBA sprite.

A silhouette is a tuple of parts in the square [-1, 1] x [-1, 1] (x right, y down), drawn in order:
("polygon", points), ("ellipse", box) add to the mask and ("cut", box) removes an ellipse from it.
`LABEL_CENTER` says where the mark's label sits on a kind.
"""

import functools
import math

import numpy as np
from PIL import Image, ImageDraw

from ilias_jax.dataset.synthetic.objects import COLORS, Thing

SIZE = 256  # pixels of a side of a sprite
_OVERSAMPLING = 2
_STRIPES = 7.0  # periods of a pattern over the sprite
Part = tuple[str, tuple[float, ...]]


def _regular(
    num_points: int, start: float = -90.0, inner: float | None = None
) -> tuple[float, ...]:
    """Corners of a regular polygon, or of a star when `inner` gives the inner radius."""
    radii = (1.0,) if inner is None else (1.0, inner)
    total = num_points * len(radii)
    points: list[float] = []
    for i in range(total):
        angle = math.radians(start + 360.0 * i / total)
        radius = radii[i % len(radii)]
        points += [radius * math.cos(angle), radius * math.sin(angle)]
    return tuple(points)


def _flower() -> tuple[Part, ...]:
    petals = []
    for i in range(6):
        x, y = 0.58 * math.cos(math.pi * i / 3), 0.58 * math.sin(math.pi * i / 3)
        petals.append(("ellipse", (x - 0.4, y - 0.4, x + 0.4, y + 0.4)))
    return (*petals, ("ellipse", (-0.55, -0.55, 0.55, 0.55)))


SILHOUETTES: dict[str, tuple[Part, ...]] = {
    "mug": (
        ("ellipse", (0.25, -0.55, 1.0, 0.55)),
        ("cut", (0.45, -0.33, 0.82, 0.33)),
        ("polygon", (-0.9, -0.85, 0.55, -0.85, 0.5, 0.85, -0.85, 0.85)),
    ),
    "goblet": (
        ("polygon", (-0.8, -0.95, 0.8, -0.95, 0.62, 0.1, 0.15, 0.4, -0.15, 0.4, -0.62, 0.1)),
        ("polygon", (-0.14, 0.3, 0.14, 0.3, 0.14, 0.8, 0.55, 0.95, -0.55, 0.95, -0.14, 0.8)),
    ),
    "bottle": (
        ("polygon", (-0.2, -1.0, 0.2, -1.0, 0.2, -0.5, 0.5, -0.15, 0.5, 1.0, -0.5, 1.0, -0.5, -0.15, -0.2, -0.5)),
    ),
    "flask": (
        ("polygon", (-0.2, -1.0, 0.2, -1.0, 0.2, -0.35, 0.9, 0.95, -0.9, 0.95, -0.2, -0.35)),
    ),
    "stop sign": (("polygon", _regular(8, 22.5)),),
    "warning sign": (("polygon", (0.0, -0.95, 1.0, 0.85, -1.0, 0.85)),),
    "shield": (
        ("polygon", (-0.85, -0.9, 0.0, -0.75, 0.85, -0.9, 0.85, 0.1, 0.5, 0.65, 0.0, 1.0, -0.5, 0.65, -0.85, 0.1)),
    ),
    "arrow sign": (("polygon", (-1.0, -0.5, 0.3, -0.5, 0.3, -0.85, 1.0, 0.0, 0.3, 0.85, 0.3, 0.5, -1.0, 0.5)),),
    "toy car": (
        ("polygon", (-1.0, -0.05, -0.6, -0.1, -0.4, -0.6, 0.4, -0.6, 0.65, -0.1, 1.0, 0.0, 1.0, 0.45, -1.0, 0.45)),
        ("ellipse", (-0.78, 0.15, -0.22, 0.71)),
        ("ellipse", (0.26, 0.15, 0.82, 0.71)),
    ),
    "toy boat": (
        ("polygon", (-1.0, 0.2, 1.0, 0.2, 0.6, 0.8, -0.7, 0.8)),
        ("polygon", (-0.06, -1.0, 0.06, -1.0, 0.06, 0.3, -0.06, 0.3)),
        ("polygon", (0.0, -0.95, 0.8, 0.1, -0.7, 0.1)),
    ),
    "toy fish": (
        ("ellipse", (-1.0, -0.6, 0.55, 0.6)),
        ("polygon", (0.25, 0.0, 1.0, -0.65, 0.85, 0.0, 1.0, 0.65)),
        ("polygon", (-0.3, -0.5, 0.2, -0.85, 0.15, -0.4)),
    ),
    "toy bird": (
        ("ellipse", (-0.65, -0.35, 0.6, 0.75)),
        ("ellipse", (-0.85, -0.85, -0.1, -0.1)),
        ("polygon", (-0.8, -0.6, -1.0, -0.4, -0.75, -0.3)),
        ("polygon", (0.3, 0.0, 1.0, -0.4, 0.9, 0.35, 0.5, 0.5)),
    ),
    "t-shirt": (
        ("polygon", (
            -0.35, -0.85, 0.35, -0.85, 1.0, -0.4, 0.75, 0.0, 0.5, -0.15,
            0.5, 0.9, -0.5, 0.9, -0.5, -0.15, -0.75, 0.0, -1.0, -0.4,
        )),
        ("cut", (-0.25, -1.1, 0.25, -0.62)),
    ),
    "waistcoat": (
        ("polygon", (
            -0.6, -0.95, -0.3, -0.95, 0.0, -0.2, 0.3, -0.95, 0.6, -0.95,
            0.62, -0.3, 0.7, 0.75, 0.3, 0.95, 0.0, 0.7, -0.3, 0.95, -0.7, 0.75, -0.62, -0.3,
        )),
    ),
    "cap": (
        ("ellipse", (-0.75, -0.7, 0.6, 0.75)),
        ("polygon", (0.0, 0.05, 1.0, 0.3, 1.0, 0.55, -0.75, 0.45, -0.75, 0.1)),
    ),
    "crown": (
        ("polygon", (-0.9, 0.75, -1.0, -0.6, -0.5, 0.0, 0.0, -0.85, 0.5, 0.0, 1.0, -0.6, 0.9, 0.75)),
    ),
    "star": (("polygon", _regular(5, inner=0.5)),),
    "moon": (("ellipse", (-0.95, -0.95, 0.95, 0.95)), ("cut", (0.1, -0.85, 1.35, 0.55))),
    "heart": (
        ("ellipse", (-0.95, -0.8, 0.1, 0.25)),
        ("ellipse", (-0.1, -0.8, 0.95, 0.25)),
        ("polygon", (-0.88, 0.02, 0.88, 0.02, 0.0, 0.95)),
        ("polygon", (-0.5, -0.4, 0.5, -0.4, 0.5, 0.1, -0.5, 0.1)),
    ),
    "flower": _flower(),
    "tag": (
        ("polygon", (-0.35, -0.95, 0.35, -0.95, 0.6, -0.6, 0.6, 0.95, -0.6, 0.95, -0.6, -0.6)),
        ("cut", (-0.14, -0.85, 0.14, -0.57)),
    ),
    "ticket": (
        ("polygon", (-1.0, -0.5, 1.0, -0.5, 1.0, 0.5, -1.0, 0.5)),
        ("cut", (-1.2, -0.2, -0.8, 0.2)),
        ("cut", (0.8, -0.2, 1.2, 0.2)),
    ),
    "book": (("polygon", (-0.75, -0.95, 0.6, -0.95, 0.75, -0.85, 0.75, 0.95, -0.6, 0.95, -0.75, 0.85)),),
    "envelope": (("polygon", (-1.0, -0.35, 0.0, -0.85, 1.0, -0.35, 1.0, 0.7, -1.0, 0.7)),),
}  # fmt: skip

LABEL_CENTER: dict[str, tuple[float, float]] = {
    "mug": (-0.18, 0.0), "goblet": (0.0, -0.45), "bottle": (0.0, 0.4), "flask": (0.0, 0.5),
    "warning sign": (0.0, 0.35), "toy boat": (0.0, 0.5), "toy car": (0.0, 0.1),
    "toy fish": (-0.3, 0.0), "toy bird": (0.0, 0.25), "t-shirt": (0.0, 0.25),
    "waistcoat": (0.0, 0.3), "cap": (-0.1, 0.05), "crown": (0.0, 0.35), "moon": (-0.45, 0.2),
    "heart": (0.0, 0.0), "tag": (0.0, 0.25), "envelope": (0.0, 0.15),
}  # fmt: skip

# A 5 x 7 dot matrix of our own, so that a mark looks the same on every machine, fonts or none.
GLYPHS: dict[str, str] = {
    "A": "01110 10001 10001 11111 10001 10001 10001", "B": "11110 10001 10001 11110 10001 10001 11110",
    "C": "01111 10000 10000 10000 10000 10000 01111", "D": "11110 10001 10001 10001 10001 10001 11110",
    "E": "11111 10000 10000 11110 10000 10000 11111", "F": "11111 10000 10000 11110 10000 10000 10000",
    "H": "10001 10001 10001 11111 10001 10001 10001", "J": "00111 00010 00010 00010 00010 10010 01100",
    "K": "10001 10010 10100 11000 10100 10010 10001", "L": "10000 10000 10000 10000 10000 10000 11111",
    "M": "10001 11011 10101 10101 10001 10001 10001", "N": "10001 11001 10101 10101 10011 10001 10001",
    "P": "11110 10001 10001 11110 10000 10000 10000", "R": "11110 10001 10001 11110 10100 10010 10001",
    "S": "01111 10000 10000 01110 00001 00001 11110", "T": "11111 00100 00100 00100 00100 00100 00100",
    "U": "10001 10001 10001 10001 10001 10001 01110", "X": "10001 10001 01010 00100 01010 10001 10001",
    "Y": "10001 10001 01010 00100 00100 00100 00100", "Z": "11111 00001 00010 00100 01000 10000 11111",
    "1": "00100 01100 00100 00100 00100 00100 01110", "2": "01110 10001 00001 00110 01000 10000 11111",
    "3": "11110 00001 00001 01110 00001 00001 11110", "4": "00010 00110 01010 10010 11111 00010 00010",
    "5": "11111 10000 11110 00001 00001 10001 01110", "6": "01110 10000 10000 11110 10001 10001 01110",
    "7": "11111 00001 00010 00100 01000 01000 01000", "8": "01110 10001 10001 01110 10001 10001 01110",
    "9": "01110 10001 10001 01111 00001 00001 01110",
}  # fmt: skip


@functools.cache
def _mask(kind: str) -> Image.Image:
    """The silhouette as a mode "L" picture of SIZE x SIZE, antialiased."""
    side = SIZE * _OVERSAMPLING
    mask = Image.new("L", (side, side), 0)
    draw = ImageDraw.Draw(mask)
    for shape, values in SILHOUETTES[kind]:
        points = [(0.5 + 0.48 * value) * side for value in values]
        if shape == "polygon":
            draw.polygon(points, fill=255)
        else:
            draw.ellipse(points, fill=0 if shape == "cut" else 255)
    return mask.reduce(_OVERSAMPLING)


@functools.cache
def _pattern_mask(pattern: str) -> Image.Image:
    """Where the accent colour goes, as a mode "L" picture of SIZE x SIZE."""
    y, x = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32) / SIZE - 0.5
    turn = 2 * np.pi * _STRIPES
    waves = {
        "horizontal stripes": lambda: np.sin(turn * y),
        "vertical stripes": lambda: np.sin(turn * x),
        "diagonal stripes": lambda: np.sin(turn * (x + y) * 0.75),
        "dots": lambda: np.cos(turn * x) * np.cos(turn * y) * (np.cos(turn * x) > 0) - 0.3,
        "checks": lambda: np.sin(turn * 0.7 * x) * np.sin(turn * 0.7 * y),
        "rings": lambda: np.sin(turn * 1.2 * np.hypot(x, y)),
        "zigzags": lambda: np.sin(turn * (y + 0.09 * np.abs((x * 8) % 2 - 1))),
        "a broad cross": lambda: np.where((np.abs(x) < 0.12) | (np.abs(y) < 0.12), 1.0, -1.0),
    }
    soft = np.clip(waves[pattern]() * 8 + 0.5, 0, 1)
    return Image.fromarray((soft * 255).astype(np.uint8))


def _draw_label(sprite: Image.Image, thing: Thing) -> None:
    x, y = LABEL_CENTER.get(thing.kind, (0.0, 0.0))
    center = ((0.5 + 0.48 * x) * SIZE, (0.5 + 0.48 * y) * SIZE)
    dot = SIZE * 0.026
    width, height = 13 * dot, 9 * dot
    left, top = center[0] - width / 2, center[1] - height / 2
    draw = ImageDraw.Draw(sprite)
    draw.rectangle((left, top, left + width, top + height), fill=COLORS[thing.label])
    ink = COLORS["white"] if thing.label == "black" else COLORS["black"]
    for i, character in enumerate(thing.mark):
        for row, bits in enumerate(GLYPHS[character].split()):
            for column, bit in enumerate(bits):
                if bit == "1":
                    px = left + (1 + column + 6 * i) * dot
                    py = top + (1 + row) * dot
                    draw.rectangle((px, py, px + dot, py + dot), fill=ink)


def draw_sprite(thing: Thing) -> Image.Image:
    """The thing as a mode "RGBA" picture of SIZE x SIZE pixels, transparent around it."""
    body = Image.new("RGB", (SIZE, SIZE), COLORS[thing.color])
    body.paste(COLORS[thing.accent], (0, 0), _pattern_mask(thing.pattern))
    _draw_label(body, thing)
    body.putalpha(_mask(thing.kind))
    return body
