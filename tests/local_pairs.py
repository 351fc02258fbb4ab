"""Re-ranking networks and pairs of images that a seed defines, and where expected scores lie.

Numpy only, as `tests/reference/make_rerank_values.py` reads it where there is no JAX. Every network
has a file of expected values, `tests/data/rerank/NAME.npz`:

    small, large  [queries, images] float32 scores of `SMALL` and `LARGE`, all pairs
    layout        bytes of a JSON object: the reference's name of each array -> its shape
    versions      of what made it
"""

import dataclasses
import json
import pathlib
import re

import numpy as np
import parity_weights as seeded
from parity_weights import Drawn

FOLDER = pathlib.Path(__file__).parent / "data" / "rerank"
INPUT_DIM = 768
MARGIN = 1e-4  # at least so far from 0 is what signs are taken of
# (end of the name, scale, offset); the first that fits counts. What enters the first LayerNorm and
# that of the votes is small, so that their epsilons count.
_RULES = (
    (r"remap_local\.0\.W", 1.0, 0.0),
    (r"remap_local\.\d\.weight", 0.008, 0.0),  # of a dense layer, by its two axes
    (r"remap_local\.\d\.bias", 0.002, 0.0),
    (r"mtc_token", 1.0, 0.0),
    (r"dust_bin", 0.0, 0.8),
    (r"dust_bin_mlp\.0\.weight", 2.2, 0.0),  # of unit vectors
    (r"dust_bin_mlp\.2\.weight", 0.1, 0.0),
    (r"f\.0\.weight", 0.06, 0.0),
    (r"f\.0\.bias", 0.004, 0.0),
    (r"f\.1\.weight", 0.2, 2.6),  # where the forms of the GELU differ most
    (r"f\.3\.weight", 0.05, 0.08),  # of one sign mostly, so that small errors add up
    (r"bias", 0.2, 0.0),
)


@dataclasses.dataclass(frozen=True)
class Network:
    """A method and one form of it."""

    method: str
    is_binary: bool

    @property
    def name(self) -> str:
        """Of its file."""
        return f"{self.method}_{'binary' if self.is_binary else 'full'}"

    @property
    def path(self) -> pathlib.Path:
        """Its file of expected values."""
        return FOLDER / f"{self.name}.npz"

    def weights(self) -> dict[str, np.ndarray]:
        """Every array of its state dictionary, float32, the same bits everywhere."""
        with np.load(self.path) as stored:
            return draw(json.loads(stored["layout"].tobytes()))


NETWORKS = [Network(method, binary) for method in ("ames", "elvis") for binary in (False, True)]


@dataclasses.dataclass(frozen=True)
class Pairs:
    """All pairs of some queries and some images.

    Attributes:
        seed: of their descriptors.
        padded: slots for descriptors of a query and of an image.
        queries, images: how many of them are real, for each.
    """

    seed: int
    padded: tuple[int, int]
    queries: tuple[int, ...]
    images: tuple[int, ...]

    def draw(self) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """[n, 768] float32 of every query and of every image, of any length.

        Half of an image's resemble some of a query's. Their products with the binary networks' W
        are far enough from 0 for their signs to be safe.
        """
        sign_weights = _array("remap_local.0.W", (INPUT_DIM, 128)).astype(np.float64)
        queries = [
            _safe(self._values(f"query {i}", count), sign_weights)[:count]
            for i, count in enumerate(self.queries)
        ]
        images = []
        for i, count in enumerate(self.images):
            values, like = self._values(f"image {i}", count), queries[i % len(queries)]
            half = len(values) // 2
            values[:half] = 0.6 * values[:half] + 0.9 * np.resize(like, (half, INPUT_DIM))
            mixed = values.reshape(2, -1, INPUT_DIM).swapaxes(0, 1).reshape(-1, INPUT_DIM)
            images.append(_safe(mixed, sign_weights)[:count])
        return queries, images

    def _values(self, name: str, count: int) -> np.ndarray:
        """Twice as many as are wanted, and some more."""
        return seeded.draw({name: Drawn((2 * count + 8, INPUT_DIM), 0.7)}, self.seed)[name]


SMALL = Pairs(1, (24, 18), (24, 7, 1), (18, 5, 1, 11))
LARGE = Pairs(2, (600, 600), (600, 431), (600, 257, 1, 88))


def _safe(values: np.ndarray, sign_weights: np.ndarray) -> np.ndarray:
    products = unit(values.astype(np.float64)) @ sign_weights
    return values[np.abs(products).min(axis=1) > MARGIN]


def unit(values: np.ndarray) -> np.ndarray:
    """Over the L2 norms of the last axis."""
    return values / np.linalg.norm(values, axis=-1, keepdims=True)


def padded(values: list[np.ndarray], length: int) -> np.ndarray:
    """[N, length, D] of N images, zeros behind what is there."""
    found = np.zeros((len(values), length, values[0].shape[1]), values[0].dtype)
    for row, value in zip(found, values, strict=True):
        row[: len(value)] = value
    return found


def draw(layout: dict[str, list[int]]) -> dict[str, np.ndarray]:
    """A state dictionary of these shapes."""
    return {name: _array(name, tuple(shape)) for name, shape in layout.items()}


def _array(name: str, shape: tuple[int, ...]) -> np.ndarray:
    for end, scale, offset in _RULES:
        if re.search(rf"(^|[._]){end}$", name) and not _is_norm(name, shape):
            return seeded.draw({name: Drawn(shape, scale, offset)})[name]
    if len(shape) == 1:  # of a norm
        return seeded.draw({name: Drawn(shape, 0.3, 1.0)})[name]
    array = seeded.draw({name: Drawn(shape, shape[1] ** -0.5)})[name]
    if name.endswith("in_proj_weight"):  # sharp queries and keys
        array[: 2 * len(array) // 3] *= np.float32(2)
    return array


def _is_norm(name: str, shape: tuple[int, ...]) -> bool:
    """The last layer of a remapping is a norm."""
    return name.startswith("remap_local") and name.endswith("weight") and len(shape) == 1
