"""Resizes drawn pictures as the extractors of AMES and ELViS do, and stores the results.

    pip install opencv-python-headless==4.10.0.84 torch torchvision
    python tests/reference/make_local_patch_values.py

Writes `tests/data/rerank/local_patches.npz`: for each case of `tests/local_patch_cases.py`
"NAME_opencv" [H, W, 3] uint8 and "NAME_torch" [H, W, 3] float32.
"""

import pathlib
import sys

import cv2
import numpy as np
import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as transforms

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))
from local_patch_cases import CASES, FILE, picture  # noqa: E402


def factor(side: int, scale: float, patch_size: int) -> float:
    """What the references multiply a side by."""
    new = scale * side
    whole = max(round(new / patch_size), 1.0)
    return scale / ((new / patch_size) / whole)


def with_opencv(pixels: np.ndarray, x: float, y: float) -> np.ndarray:
    if x == 1 and y == 1:
        return pixels
    shrinks = x < 1 or y < 1
    how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return cv2.resize(pixels, dsize=(0, 0), fx=x, fy=y, interpolation=how)


def with_torch(pixels: np.ndarray, x: float, y: float) -> np.ndarray:
    image = torch.from_numpy(pixels).permute(2, 0, 1).float() / 255
    size = [round(y * pixels.shape[0]), round(x * pixels.shape[1])]
    found = transforms.resize(
        image, size=size, interpolation=InterpolationMode.BICUBIC, antialias=True
    )
    return found.permute(1, 2, 0).numpy()


def main() -> None:
    found = {}
    for case in CASES:
        pixels = picture(case)
        scale = case.resolution / max(pixels.shape[:2])
        y, x = (factor(side, scale, case.patch_size) for side in pixels.shape[:2])
        found[f"{case.name}_opencv"] = with_opencv(pixels, x, y)
        found[f"{case.name}_torch"] = with_torch(pixels, x, y).astype(np.float32)
    np.savez_compressed(FILE, **found)
    print(FILE, FILE.stat().st_size, cv2.__version__, torch.__version__)


if __name__ == "__main__":
    main()
