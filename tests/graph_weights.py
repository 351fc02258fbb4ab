"""Weights that a seed defines under the names of other people's models, in plain numpy.

`parity_weights` draws SigLIP in big_vision's layout. Here a layout is what a reference's own state
dictionary says: name -> shape. How an array is drawn follows from the end of its name.
"""

import math
import re
from collections.abc import Iterator, Mapping

import numpy as np
import parity_weights as seeded
from parity_weights import Drawn

Layout = Mapping[str, tuple[int, ...]]
Shape = tuple[int, ...]
Arrays = dict[str, np.ndarray]

_ROPE_BASE = 100.0  # of DINOv3
_SHARP = 1.5  # queries, keys and the way up in an MLP: outputs of different inputs then differ
# Projections that multiply from the right, [in, out]; all others are [out, in, ...].
_INPUT_FIRST = ("text_projection", "visual.proj")
# Fractions of the rows of a joined projection that are queries or keys.
_JOINED = {
    "attn.qkv.weight": (2, 3),
    "attn.in_proj_weight": (2, 3),
    "attn_pool.kv.weight": (1, 2),
}
_SHARP_NAMES = re.compile(r"(attn\.[qk]_proj|attn_pool\.q|mlp\.(fc1|c_fc|fc1_g|fc1_x))\.weight$")
# Of what enters the first norm. It is small, as trained networks have it, so that the norm's
# epsilon counts: 1e-5 for 1e-6 changes what it gives by a few parts in 10,000.
_FAINT = 1 / 16
# (end of the name, scale, offset) of what is not a dense layer; the first that fits counts.
_RULES = (
    (r"running_mean", 0.2, 0.0),
    (r"running_var", 0.015, 0.05),  # small for the same reason
    (r"(ls[12]\.gamma|gamma_[12])", 0.2, 0.6),
    (r"patch_embed\.proj\.bias", 0.2 * _FAINT, 0.0),
    (r"bias", 0.2, 0.0),
    (r"mask_token", 0.2, 0.0),
    (r"(cls_token|register_tokens|storage_tokens)", _FAINT, 0.0),
    (r"(pos_embed|positional_embedding)", 0.7 * _FAINT, 0.0),
    (r"token_embedding\.weight", _FAINT, 0.0),
    (r"attn_pool\.latent", 1.0, 0.0),
)


def draw(layout: Layout, seed: int = seeded.SEED) -> Arrays:
    """Every array of a state dictionary.

    Args:
        layout: shapes by the reference's own names.
        seed: of all arrays; each has a stream of its own that its name and the seed define.

    Returns:
        float32 arrays, the same bits on every machine; int64 for the counters of BatchNorm.

    Raises:
        ValueError: no rule for a name.
    """
    return dict(draw_each(layout, seed))


def draw_each(layout: Layout, seed: int = seeded.SEED) -> Iterator[tuple[str, np.ndarray]]:
    """As `draw`, one array after the other, as all of some towers fill half of a machine."""
    for name, shape in layout.items():
        yield name, _array(name, shape, seed)


def fingerprint(array: np.ndarray) -> np.ndarray:
    """[4] float32 of one array: values far apart, repeated where there are fewer."""
    sample = array.reshape(-1)[:: max(1, array.size // 4)][:4]
    return np.resize(sample, 4).astype(np.float32)


def _array(name: str, shape: Shape, seed: int) -> np.ndarray:
    fixed = _fixed(name, shape)
    if fixed is not None:
        return fixed
    array = seeded.draw({name: _drawn(name, shape)}, seed)[name]
    for end, (part, whole) in _JOINED.items():
        if name.endswith(end):
            array[: shape[0] * part // whole] *= np.float32(_SHARP)
    return array


def _fixed(name: str, shape: Shape) -> np.ndarray | None:
    """An array that the reference does not learn; None for the others."""
    if name.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    if name.endswith("logit_scale"):
        return np.full(shape, 2.0, np.float32)
    if name.endswith("gem.p"):
        return np.full(shape, 3.0, np.float32)
    if name.endswith("bias_mask"):
        return np.repeat(np.asarray([1, 0, 1], np.float32), shape[0] // 3)
    if name.endswith("rope_embed.periods"):
        return _periods(shape[0])
    return None


def _periods(count: int) -> np.ndarray:
    """[count] float32 of the values that bfloat16 has, as DINOv3's files store them."""
    exact = np.asarray([_ROPE_BASE ** (i / count) for i in range(count)], np.float32)
    bits = exact.view(np.uint32)
    bits += np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    return (bits & np.uint32(0xFFFF0000)).view(np.float32)


def _drawn(name: str, shape: Shape) -> Drawn:
    """Scale and offset by the name and the shape."""
    for end, scale, offset in _RULES:
        if re.search(rf"(^|[._]){end}$", name):
            return Drawn(shape, scale, offset)
    if name.endswith(_INPUT_FIRST):
        return Drawn(shape, shape[0] ** -0.5)
    if name.endswith("weight") and len(shape) == 1:  # of a norm
        return Drawn(shape, 0.3, 1.0)
    if name.endswith("weight"):
        return Drawn(shape, _gain(name) * math.prod(shape[1:]) ** -0.5)
    raise ValueError(f"no rule says how to draw {name} {shape}")


def _gain(name: str) -> float:
    if name.endswith("patch_embed.proj.weight"):
        return 2 * _FAINT
    return _SHARP if _SHARP_NAMES.search(name) else 1.0
