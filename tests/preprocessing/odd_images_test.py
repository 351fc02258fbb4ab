"""What is accepted, rejected and turned, against Pillow, which the official toolkit reads with."""

import io

import numpy as np
import pytest
from odd_images import ODD
from PIL import Image, ImageOps

from ilias_jax.dataset.tars import image_problem
from ilias_jax.preprocessing.decode import DecodeError, decode

# What turns stored pixels [H, W, 3] upright (EXIF 2.32, section 4.6.4.A, Orientation).
TURNS = {
    1: lambda pixels: pixels,
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: pixels[::-1].swapaxes(0, 1),
    7: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
    8: lambda pixels: pixels[:, ::-1].swapaxes(0, 1),
}
# Pillow's notes on damaged tags.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
# Formats of `docs/extraction.md`; Pillow hands PostScript to Ghostscript, a program.
REFUSED = {"PPM", "JPEG 2000", "PostScript"}


def by_pillow(data: bytes) -> np.ndarray | None:
    """The official reader; None if it fails."""
    try:
        return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    except Exception:  # whatever it is
        return None


@pytest.mark.parametrize("name", ODD)
def test_the_pixels_are_pillows_or_there_are_none(name):
    data, orientation = ODD[name]
    expected = None if name in REFUSED else by_pillow(data)
    problem = image_problem(data)
    assert name not in REFUSED or str(problem).startswith("not an image in JPEG PNG")
    if expected is None:
        if problem is None:
            reasons = []
            for _ in range(2):
                with pytest.raises(DecodeError) as error:
                    decode(data, exif_transpose=True)
                reasons.append(str(error.value))
            assert reasons[0] == reasons[1] and "0x" not in reasons[0]
        return
    assert problem is None
    np.testing.assert_array_equal(np.asarray(decode(data, exif_transpose=False)), expected)
    turned = np.asarray(decode(data, exif_transpose=True))
    np.testing.assert_array_equal(turned, TURNS[orientation](expected))
    image = Image.open(io.BytesIO(data)).convert("RGB")
    try:
        official = ImageOps.exif_transpose(image)
    except Exception:  # of tags that it cannot read or write back
        assert name.startswith(("orientation beside", "EXIF"))
    else:
        np.testing.assert_array_equal(turned, np.asarray(official))


def test_most_are_accepted():
    refused = {name for name, (data, _) in ODD.items() if by_pillow(data) is None}
    assert len(ODD) >= 60
    assert refused >= {"nothing", "a page", "a start alone", "cut in its header", "12 bits"}
    assert len(refused) == 13
