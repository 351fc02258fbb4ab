"""Pictures that are resized for local descriptors; numpy only, as the reference's script reads it."""

import dataclasses
import pathlib

import numpy as np

FILE = pathlib.Path(__file__).parent / "data" / "rerank" / "local_patches.npz"


@dataclasses.dataclass(frozen=True)
class Case:
    """A picture of this height and width, and to what it is resized."""

    name: str
    height: int
    width: int
    resolution: int
    patch_size: int


CASES = (
    Case("shrinks", 97, 150, 56, 14),
    Case("shrinks_by_two", 84, 112, 56, 14),
    Case("shrinks_by_three", 126, 84, 42, 14),
    Case("shrinks_little", 61, 47, 56, 14),
    Case("one_axis_grows", 43, 70, 70, 14),
    Case("grows", 23, 31, 56, 14),
    Case("grows_and_is_thin", 5, 40, 64, 16),
    Case("stays", 42, 56, 56, 14),
)


def picture(case: Case) -> np.ndarray:
    """[H, W, 3] uint8: noise on large shapes."""
    rng = np.random.default_rng([case.height, case.width])
    coarse = rng.integers(0, 256, (-(-case.height // 8), -(-case.width // 8), 3))
    large = coarse.repeat(8, axis=0).repeat(8, axis=1)[: case.height, : case.width]
    noise = rng.integers(-60, 61, large.shape)
    return (large + noise).clip(0, 255).astype(np.uint8)
