"""The resize for local descriptors beside OpenCV's and torch's, which a script has run."""

import io

import numpy as np
import pytest
from local_patch_cases import CASES, FILE, Case, picture
from PIL import Image

from ilias_jax.model import Preprocessing
from ilias_jax.preprocessing.decode import Patches, to_patches
from ilias_jax.preprocessing.local_patches import jpeg_to_local_patches

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)


def _resized(pixels: np.ndarray, case: Case, filter: str, boxes: tuple = ()) -> Patches:
    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, "PNG")
    preprocessing = Preprocessing(case.resolution, case.patch_size, MEAN, STD)
    return jpeg_to_local_patches(encoded.getvalue(), boxes, preprocessing, filter, False)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_levels_are_opencvs(case):
    found, expected = _resized(picture(case), case, "area_linear"), np.load(FILE)
    pixels = expected[f"{case.name}_opencv"]
    assert found.size == pixels.shape[:2]
    np.testing.assert_array_equal(found.pixels, to_patches(pixels, case.patch_size).pixels)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_bicubic_filter_is_torchs(case):
    found, expected = _resized(picture(case), case, "bicubic"), np.load(FILE)
    pixels = (expected[f"{case.name}_torch"] - np.float32(MEAN)) / np.float32(STD)
    patches = to_patches(pixels, case.patch_size).pixels
    np.testing.assert_allclose(found.pixels, patches, atol=1e-5)


def test_a_cut_image_keeps_the_scale_of_the_whole():
    """Half of a picture of 80 x 80 at 56 pixels is as wide as half of that."""
    pixels = picture(Case("", 80, 80, 56, 14))
    box = (0.0, 0.0, 40.0, 80.0)
    assert _resized(pixels, Case("", 80, 80, 56, 14), "bicubic", (box,)).size == (56, 28)
    assert _resized(pixels, Case("", 80, 80, 6, 14), "area_linear").size == (14, 14)
