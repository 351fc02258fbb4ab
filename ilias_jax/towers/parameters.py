"""Our parameters by path: their shapes, their number, their values, and what a file must fill.

A path joins the attributes of `Siglip` by dots: `image.encoder.blocks.mlp.up.kernel`. Blocks of an
encoder are stacked along a leading depth axis.
"""

import functools
from collections.abc import Iterator, Sequence
from typing import Literal

import jax
import ml_dtypes
import numpy as np
from flax import nnx

from ilias_jax.errors import UserError
from ilias_jax.towers.layers import Width
from ilias_jax.towers.siglip import Siglip, SiglipConfig

Towers = Literal["both", "image"]
Shapes = dict[str, tuple[int, ...]]


def parameter_shapes(config: SiglipConfig, towers: Towers = "both") -> Shapes:
    """Path -> shape of every parameter, without allocating any.

    Args:
        config: the architecture.
        towers: "image" for the parameters of the image tower alone.
    """
    both = _shapes(config).items()
    return {path: shape for path, shape in both if towers == "both" or path.startswith("image.")}


@functools.cache
def _shapes(config: SiglipConfig) -> Shapes:
    """All shapes; tracing the model for them takes half a second."""
    abstract = nnx.eval_shape(lambda: Siglip(config, nnx.Rngs(0)))
    return {path: tuple(leaf.shape) for path, leaf in _flat(nnx.state(abstract, nnx.Param))}


def count_parameters(config: SiglipConfig) -> tuple[int, int]:
    """Numbers in the image tower and in the text tower, without building either.

    Beside them a model has two more, the temperature and the bias of its loss.
    """
    image, text = config.image, config.text
    patches = _dense(config.patch_size**2 * 3, image.width) + config.native_grid**2 * image.width
    # The MAP head is a probe and a block with one norm instead of two.
    head = image.width + _block(image) - 2 * image.width
    num_image = patches + image.depth * _block(image) + 2 * image.width + head
    num_text = (config.vocab_size + config.text_length) * text.width
    num_text += text.depth * _block(text) + 2 * text.width
    num_text += _dense(text.width, image.width) if config.text_head else 0
    return num_image, num_text


def _dense(inputs: int, outputs: int) -> int:
    return inputs * outputs + outputs


def _block(size: Width) -> int:
    """Two norms, four projections and an MLP."""
    mlp = _dense(size.width, size.mlp_dim) + _dense(size.mlp_dim, size.width)
    return 4 * size.width + 4 * _dense(size.width, size.width) + mlp


def parameters_of(model: Siglip) -> dict[str, np.ndarray]:
    """Path -> value of every parameter, fetched to the host."""
    return {
        path: np.asarray(jax.device_get(leaf)) for path, leaf in _flat(nnx.state(model, nnx.Param))
    }


def _flat(state: nnx.State) -> Iterator[tuple[str, jax.Array]]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(nnx.to_pure_dict(state))
    for path, leaf in leaves:
        yield ".".join(str(entry.key) for entry in path), leaf


def as_float32(value: np.ndarray) -> np.ndarray:
    """The values as float32; two-byte void is how numpy reads bfloat16."""
    if value.dtype == np.dtype("V2"):
        value = value.view(ml_dtypes.bfloat16)
    return np.asarray(value, np.float32)


def require_fit(source: str, problems: Sequence[str]) -> None:
    """Raises one UserError with all differences between a file and the model, if there are any."""
    if problems:
        raise UserError(
            f"{source} does not fit the model; {len(problems)} differences:\n  "
            + "\n  ".join(problems)
        )
