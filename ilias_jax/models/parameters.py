"""Our parameters by path: their shapes, number and values, and the operations of the towers.

A path joins the attributes of `DualEncoder` by dots: `image.encoder.blocks.mlp.up.kernel`. An
encoder's blocks are stacked along a leading depth axis. Operations are those of matrix products, an
addition being one too; norms, activations and softmax are below a hundredth of the sum.
"""

import functools
import math
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from flax import nnx

from ilias_jax.models.dual_encoder import (
    DualEncoder,
    DualEncoderConfig,
    ImageConfig,
    TextConfig,
    Towers,
)
from ilias_jax.models.layers import BlockConfig, TransformerSize
from ilias_jax.models.vit import VitConfig

Shapes = dict[str, tuple[int, ...]]


def parameter_shapes(config: DualEncoderConfig, towers: Towers = "both") -> Shapes:
    """Path -> shape of every parameter of both towers or of one alone, without allocating any."""
    prefix = "" if towers == "both" else f"{towers}."
    return {path: shape for path, shape in _shapes(config).items() if path.startswith(prefix)}


@functools.cache
def _shapes(config: DualEncoderConfig) -> Shapes:
    """All shapes; tracing the model for them takes half a second."""
    abstract = nnx.eval_shape(lambda: DualEncoder(config, nnx.Rngs(0)))
    return {path: tuple(leaf.shape) for path, leaf in _flat(nnx.state(abstract, nnx.Param))}


def count_parameters(config: DualEncoderConfig) -> tuple[int, int]:
    """Numbers in the image tower and in the text tower, without building either.

    Beside them SigLIP has two more, the temperature and the bias of its loss.
    """
    image = config.image
    if image is None:
        count = 0
    elif isinstance(image, VitConfig):
        count = _count_image(image)
    else:
        count = _count_stored(image)
    return count, 0 if config.text is None else _count_text(config.text)


def _count_stored(config: ImageConfig) -> int:
    """Numbers in a CNN that were learned, as statistics of batches were not."""
    shapes = parameter_shapes(DualEncoderConfig(config), "image")
    statistics = (".mean", ".variance")
    return sum(math.prod(shapes[path]) for path in shapes if not path.endswith(statistics))


def _count_image(config: VitConfig) -> int:
    size, block = config.size, config.block
    width = size.width
    count = _count_dense(config.patch_size**2 * 3, width, config.patch_bias)
    count += (config.num_prefix + config.has_class_position) * width
    count += config.native_grid**2 * width if config.position is not None else 0
    count += size.head_dim // 4 if config.rope is not None and config.rope.learned else 0
    count += size.depth * _count_block(size, block) + (1 + config.pre_norm) * 2 * width
    if config.pool == "map":  # a probe and a block with one norm instead of two
        count += width + _count_block(size, block) - 2 * width
    head = config.head
    if config.pool == "flatten":
        dim = config.embedding_dim
        count += config.native_grid**2 * width**2 + width * dim + 4 * (width + dim)
    elif head is not None:
        count += _count_dense(width, head.dim) + (2 * width if head.norm == "affine" else 0)
    return count


def _count_text(config: TextConfig) -> int:
    size, width = config.size, config.size.width
    count = (config.vocab_size + config.length) * width
    count += size.depth * _count_block(size, config.block) + 2 * width
    if config.head != "none":
        count += _count_dense(width, config.embedding_dim, config.head == "dense")
    return count


def _count_dense(inputs: int, outputs: int, bias: bool = True) -> int:
    return inputs * outputs + (outputs if bias else 0)


def _count_block(size: TransformerSize, block: BlockConfig) -> int:
    width = size.width
    projections = 4 * width**2 + width + {"all": 3, "none": 0, "no_key": 2}[block.biases] * width
    mlp = _count_dense(width, size.mlp_dim) + _count_dense(size.mlp_dim, width)
    if block.gated_mlp:
        mlp += _count_dense(width, size.mlp_dim) + 2 * size.mlp_dim
    extra = (2 if block.layer_scale else 0) + (2 if block.attention_norm else 0)
    return (4 + extra) * width + projections + mlp


def random_parameters(config: DualEncoderConfig) -> dict[str, np.ndarray]:
    """Path -> float32 value of every parameter, to measure speed by; outputs are finite.

    A short row of small values is repeated, with which a network is as quick as with any others.
    """
    row = np.random.default_rng(0).normal(scale=0.02, size=4093).astype(np.float32)
    fixed = {"variance": 1.0, "power": 3.0}
    return {
        path: np.full(shape, fixed[leaf], np.float32)
        if (leaf := path.rpartition(".")[2]) in fixed
        else np.resize(row, shape)
        for path, shape in parameter_shapes(config).items()
    }


def parameters_of(model: DualEncoder) -> dict[str, np.ndarray]:
    """Path -> value of every parameter, fetched to the host."""
    return {
        path: np.asarray(jax.device_get(leaf)) for path, leaf in _flat(nnx.state(model, nnx.Param))
    }


def _flat(state: nnx.State) -> Iterator[tuple[str, jax.Array]]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(nnx.to_pure_dict(state))
    for path, leaf in leaves:
        yield ".".join(str(entry.key) for entry in path), leaf


def holds_floats(dtype: np.dtype) -> bool:
    """Whether a dtype is of floats that need no scale beside them, as those of one byte do."""
    is_float = dtype == np.dtype("V2") or jnp.issubdtype(dtype, jnp.floating)
    return is_float and dtype.itemsize > 1


def as_float32(value: np.ndarray) -> np.ndarray:
    """The values as float32; two-byte void is how numpy reads bfloat16."""
    if value.dtype == np.dtype("V2"):
        value = value.view(ml_dtypes.bfloat16)
    return np.asarray(value, np.float32)


def _layer_flops(size: TransformerSize, block: BlockConfig, num_tokens: int) -> int:
    """A transformer block over a sequence: four projections, attention, MLP."""
    mlp = (6 if block.gated_mlp else 4) * num_tokens * size.width * size.mlp_dim
    return 8 * num_tokens * size.width**2 + 4 * num_tokens**2 * size.width + mlp


def image_flops(config: ImageConfig, shape: tuple[int, ...]) -> int:
    """The image tower over one image padded to a shape of `bucket_shapes`."""
    if isinstance(config, VitConfig):
        return _vit_flops(config, *shape)
    return _cnn_flops(config, shape)


def hidden_bytes(config: ImageConfig, shape: tuple[int, ...], item: int) -> int:
    """Peak bytes of hidden values of one image padded to a shape, `item` bytes each; a guess."""
    if isinstance(config, VitConfig):  # of a layer, and the weights of its attention
        size, length = config.size, config.num_prefix + shape[0]
        return item * length * (4 * size.width + 2 * size.mlp_dim) + 4 * size.num_heads * length**2
    # The first layers have the most: four maps of a quarter of the pixels each.
    return item * 4 * 128 * math.prod(shape) // 4


@functools.cache
def _cnn_flops(config: ImageConfig, shape: tuple[int, ...]) -> int:
    """What XLA counts in the program before it compiles it."""
    module = nnx.eval_shape(lambda: config.tower(jnp.dtype("float32"), nnx.Rngs(0)))
    graph, state = nnx.split(module)

    def embed(state: nnx.State, pixels: jax.Array, size: jax.Array) -> jax.Array:
        return nnx.merge(graph, state)(pixels, size, max(shape))

    pixels = jax.ShapeDtypeStruct((1, *shape, 3), jnp.float32)
    size = jax.ShapeDtypeStruct((1, 2), jnp.int32)
    cost = jax.jit(embed).lower(state, pixels, size).cost_analysis()
    assert cost is not None  # XLA counts for every backend
    return int(cost["flops"])


def _vit_flops(config: VitConfig, num_patches: int) -> int:
    """All products over one image padded to `num_patches`, position embedding and all."""
    size, channels = config.size, config.patch_size**2 * 3
    width, cells = size.width, config.native_grid**2
    num_tokens = config.num_prefix + num_patches
    patches = 2 * num_patches * channels * width
    position = 2 * num_patches * cells * width if config.position is not None else 0
    layers = size.depth * _layer_flops(size, config.block, num_tokens)
    head = 0 if config.head is None else 2 * width * config.head.dim
    if config.pool == "map":
        # The one query attends to all tokens: projections of keys and values of all of them, of
        # the query and of the result once.
        head += 4 * num_tokens * width**2 + 4 * width**2
        head += 4 * num_tokens * width + 4 * width * size.mlp_dim
    if config.pool == "flatten":
        head += 2 * cells * num_patches * width + 2 * cells * width**2
    return patches + position + layers + head


def text_flops(config: TextConfig) -> int:
    """The text tower over one text, padding included."""
    size = config.size
    layers = size.depth * _layer_flops(size, config.block, config.length)
    return layers + (2 * size.width * config.embedding_dim if config.head != "none" else 0)
