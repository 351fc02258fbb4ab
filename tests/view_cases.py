"""Seeded pictures, boxes and a small model, for the views that the official toolkit was run on."""

import io

import numpy as np
from PIL import Image

PATCH, RESOLUTION, WIDTH = 4, 24, 6
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SCALES, ROTATIONS = (0.707, 1.0, 1.414), (0, 90, 180, 270)
# Heights and widths whose difference is even and odd, and lines of a single pixel.
SHAPES = ((12, 20), (13, 20), (20, 13), (17, 17), (3, 18), (1, 9))
NEAREST = (((30, 40), (18, 24)), ((40, 30), (24, 18)), ((7, 5), (24, 17)), ((100, 99), (33, 41)))

# Options by name; the toolkit has two scales of switches, ours has values.
OPTIONS: dict[str, dict[str, object]] = {
    "plain": {},
    "scales": {"scales": SCALES},
    "rotations": {"rotations": ROTATIONS},
    "both": {"scales": SCALES, "rotations": ROTATIONS},
    "crop": {"crop_to_box": True},
    "mask": {"mask_outside_box": True},
    "crop and scales": {"crop_to_box": True, "scales": SCALES},
    "mask, scales and rotations": {
        "mask_outside_box": True,
        "scales": SCALES,
        "rotations": ROTATIONS,
    },
}


def array(shape: tuple[int, int]) -> np.ndarray:
    """[H, W, 3] float32 like a normalised image."""
    return np.random.default_rng(shape).normal(size=(*shape, 3)).astype(np.float32)


def mask(shape: tuple[int, int]) -> np.ndarray:
    """[H, W] bool."""
    return np.random.default_rng(shape).random(shape) < 0.5


def pictures() -> list[tuple[bytes, list[tuple[int, int, int, int]]]]:
    """PNG files (Pillow reads them under any name) with the boxes of each."""
    rng = np.random.default_rng(5)
    boxes = [
        [(10, 5, 20, 15)],
        [(3, 4, 10, 10), (25, 12, 12, 30)],
        [(30, 20, 100, 100)],  # beyond the right and lower border
        [(0, 0, 33, 50)],
        [(8, 2, 6, 40)],
    ]
    sizes = [(40, 30), (40, 45), (64, 48), (33, 50), (50, 50)]
    made = []
    for (width, height), own in zip(sizes, boxes, strict=True):
        coarse = rng.integers(0, 256, (6, 7, 3)).astype(np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).save(
            buffer, "PNG"
        )
        made.append((buffer.getvalue(), own))
    return made


def weights() -> np.ndarray:
    """[patch x patch x 3, WIDTH] float32 of a model: sum over patches of tanh(patch @ weights)."""
    rng = np.random.default_rng(6)
    return rng.normal(0, 0.3, (PATCH * PATCH * 3, WIDTH)).astype(np.float32)
