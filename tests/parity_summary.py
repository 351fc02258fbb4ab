"""What a network holds after each of its layers in eight numbers, and where two of them part.

A file of expected values, `tests/data/parity_NAME.npz`, has for each activation A:

    image_{A}_{resolution}        [N, D] float32, unnormalised outputs of N pictures
    image_trace_{A}_{resolution}  [N, layers, 8] float32, see `summarise` and `image_layers`
    text_{A}, text_trace_{A}      the same of the texts, see `text_layers`
    image_weights, text_weights   [arrays, 4] float32, `parity_weights.fingerprint`
    versions                      of the packages that made it

and in that of the small model `big_vision_image`, `big_vision_text` (L2-normalised) and
`big_vision_pictures`, the numbers of the pictures that big_vision can run.
"""

import zlib
from collections.abc import Sequence

import numpy as np

NUM_PROJECTIONS = 8


def image_layers(depth: int) -> list[str]:
    """Names of the traced layers of an image tower, in order."""
    return ["patch embedding", "position", *_blocks(depth), "final norm", "pooling head"]


def text_layers(depth: int, head: bool = True) -> list[str]:
    """Names of the traced layers of a text tower, in order; a tower without head projects not."""
    last = ["projection"] if head else []
    return ["token embedding", "position", *_blocks(depth), "final norm", *last]


def _blocks(depth: int) -> list[str]:
    return [f"block {i}" for i in range(depth)]


def _signs(name: str, *shape: int) -> np.ndarray:
    """Random signs that the name and the shape define."""
    seed = [zlib.crc32(name.encode()), *shape]
    count = int(np.prod(shape))
    bits = np.random.PCG64(seed).random_raw(count) >> np.uint64(63)
    return np.where(bits, 1.0, -1.0).reshape(shape)


def summarise(tokens: np.ndarray) -> np.ndarray:
    """Eight random projections of tokens [T, D], each of about their root mean square.

    Tokens have signs of their own, so that tokens in another order give another result.
    """
    length, width = tokens.shape
    summed = _signs("tokens", length) @ tokens.astype(np.float64)
    projected = summed @ _signs("channels", width, NUM_PROJECTIONS)
    return (projected / np.sqrt(length * width)).astype(np.float32)


def layer_errors(ours: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Largest difference of each layer over the root mean square of the layer.

    Args:
        ours: [N, layers, 8] summaries of N inputs.
        reference: the same of the reference.

    Returns:
        [layers] float64.
    """
    ours, reference = ours.astype(np.float64), reference.astype(np.float64)
    typical = np.sqrt(np.square(reference).mean(axis=(0, 2)))
    return np.abs(ours - reference).max(axis=(0, 2)) / typical


def where_they_part(
    layers: Sequence[str], ours: np.ndarray, reference: np.ndarray, tolerance: float
) -> str:
    """A sentence that names the first layer of which the summaries differ; see `layer_errors`."""
    errors = layer_errors(ours, reference)
    (beyond,) = np.nonzero(~(errors <= tolerance))  # NaN is beyond, too
    if not len(beyond):
        return (
            f"no layer run by itself differs by more than {tolerance:.0e} of its typical value "
            f"(largest: {errors.max():.1e}): what differs is how the tower puts them together"
        )
    first = beyond[0]
    before = f"at most {errors[:first].max():.1e}" if first else "there is none"
    return (
        f"first differs at {layers[first]}: {errors[first]:.1e} of its typical value, tolerance "
        f"{tolerance:.0e} (before it: {before})"
    )


def cosines(ours: np.ndarray, reference: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(ours, axis=1) * np.linalg.norm(reference, axis=1)
    return (ours * reference).sum(axis=1) / norms


def relative_errors(ours: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Distance of each output from the reference's over the mean distance of different outputs."""
    distance = np.linalg.norm(reference[:, None] - reference[None], axis=2)
    typical = distance[~np.eye(len(reference), dtype=bool)].mean()
    return np.linalg.norm(ours - reference, axis=1) / typical
