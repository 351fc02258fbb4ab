"""Draws a thing, upright and alone, as an RGBA sprite."""

import functools

import numpy as np
from PIL import Image, ImageDraw

from ilias_jax.dataset.world.silhouettes import GLYPHS, LABEL_CENTER, SILHOUETTES
from ilias_jax.dataset.world.things import COLORS, Thing

SIZE = 256  # pixels of a side of a sprite
_OVERSAMPLING = 2
_STRIPES = 7.0  # periods of a pattern over the sprite


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
    """Prints the mark on its label."""
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
