"""Our towers with the weights of a `graph_cases.GraphCase`, run as the program runs them."""

import dataclasses
import functools
import json
from collections.abc import Iterator

import graph_weights
import jax
import jax.numpy as jnp
import numpy as np
import parity_weights as seeded
from flax import nnx
from flax.traverse_util import unflatten_dict
from graph_cases import GRAPHS, GraphCase, Pictures, Texts
from parity_summary import summarise

from ilias_jax.model import Model
from ilias_jax.models.checkpoints.torch_names import from_torch
from ilias_jax.models.dual_encoder import DualEncoder, DualEncoderConfig
from ilias_jax.models.layers import Encoder
from ilias_jax.models.load import tower_model
from ilias_jax.models.registry.registry import VARIANTS
from ilias_jax.models.tokenizers import ClipTokenizer
from ilias_jax.preprocessing.decode import jpeg_to_patches
from ilias_jax.preprocessing.resize import normalize_patches, patch_grid

_MANY = 512  # pixels, from which on a picture has many tokens
_ROOM = 256  # tokens that sequences are padded to multiples of: few compilations
_QUICK_PICTURES = 3


@functools.cache
def stored(name: str) -> dict[str, np.ndarray]:
    """The file of expected values of a case."""
    with np.load(GRAPHS[name].path, allow_pickle=False) as archive:
        return dict(archive)


def architecture(case: GraphCase, activation: str) -> DualEncoderConfig:
    """The row's, as deep as the case, with one tower and an activation."""
    row = VARIANTS[case.row].architecture
    kept = "image" if isinstance(case.inputs, Pictures) else "text"
    tower = getattr(row, kept)
    tower = dataclasses.replace(
        tower,
        size=dataclasses.replace(tower.size, depth=case.depth),
        block=dataclasses.replace(tower.block, activation=activation),
    )
    return DualEncoderConfig(**{"image": None, "text": None, kept: tower})


@functools.lru_cache(maxsize=1)  # those of some cases take half a machine
def parameters(name: str) -> dict[str, np.ndarray]:
    """The drawn weights of a case, by our names, from the reference's by the program's table."""
    case = GRAPHS[name]
    layout = json.loads(stored(name)["layout"].tobytes())
    arrays = graph_weights.draw({key: tuple(shape) for key, shape in layout.items()})
    return converted(case, arrays)


def converted(case: GraphCase, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A reference's arrays by our names."""
    config = architecture(case, case.activations[0])
    return from_torch(arrays, config, case.name, case.modality)


def image_model(case: GraphCase, activation: str, dtype: str = "float32") -> Model:
    """What the program makes of a case of an image tower; without its parameters."""
    row, pictures = VARIANTS[case.row], case.inputs
    return tower_model(
        case.name,
        architecture(case, activation),
        {},
        None,
        pictures.resolution,
        dtype,
        {},
        normalization=row.normalization,
    )


def numbers(case: GraphCase, quick: bool = False) -> list[int]:
    """Which inputs of a case are run: of the first blocks at a large size three shapes are enough.

    Quick are the pictures of the fewest tokens, a wide one, a high one and one of a single row.
    """
    if quick and isinstance(case.inputs, Pictures):
        ratios = [min(size) / max(size) for size in case.inputs.sizes]
        return sorted(np.argsort(ratios)[:_QUICK_PICTURES].tolist())
    count = len(stored(case.name)[f"{case.modality}_{case.activations[0]}"])
    few = case.reduced and isinstance(case.inputs, Pictures) and case.inputs.resolution > _MANY
    return [0, 1, count - 1] if few else list(range(count))


def image_outputs(
    case: GraphCase, activation: str, dtype: str = "float32", quick: bool = False
) -> np.ndarray:
    """[N, D] float32, unnormalised, of a case's pictures; `quick` as in `numbers`, in one batch."""
    model, weights = image_model(case, activation, dtype), parameters(case.name)
    embed = jax.jit(model.embed_images)
    device = jax.device_put(weights)
    pictures = [case.inputs.arrays()[i] for i in numbers(case, quick)]
    if not quick:
        return np.concatenate([embed(device, *_inputs(model, one)[:2]) for one in pictures])
    most = max(_inputs(model, one)[2] for one in pictures)
    pixels, grids, _ = zip(*(_inputs(model, one, most) for one in pictures), strict=True)
    return np.asarray(embed(device, jnp.concatenate(pixels), jnp.concatenate(grids)))


def _inputs(model: Model, picture: np.ndarray, room: int = 0) -> tuple[jax.Array, jax.Array, int]:
    """Normalised patches [1, T, ...] of a picture, padded with what would show; grid; real ones."""
    how = model.preprocessing
    cut = jpeg_to_patches(seeded.png(picture), how.resolution, how.patch_size, exif_transpose=True)
    count = len(cut.pixels)
    room = room or -(-count // _ROOM) * _ROOM
    padded = np.pad(cut.pixels, ((0, room - count), (0, 0)), constant_values=255)
    size = jnp.asarray([cut.size], jnp.int32)
    pixels = normalize_patches(jnp.asarray(padded)[None], size, how.patch_size, how.mean, how.std)
    return pixels, patch_grid(size, how.patch_size), count


def text_outputs(case: GraphCase, activation: str) -> np.ndarray:
    """[N, D] float32, unnormalised, of a case's texts, by the function that a run calls."""
    texts = architecture(case, activation).text
    image = VARIANTS["vit_base_patch16_clip_224.openai"].architecture.image
    head = dataclasses.replace(image.head, dim=texts.embedding_dim)
    both = DualEncoderConfig(dataclasses.replace(image, head=head), texts)
    tokenizer = ClipTokenizer(b"unused", case.inputs.length)
    model = tower_model(case.name, both, {}, tokenizer, 224, "float32", {})
    tower = nnx.eval_shape(lambda: DualEncoder(both, nnx.Rngs(0)))
    # The image tower is there and never runs.
    shapes = nnx.to_pure_dict(nnx.state(tower, nnx.Param))["image"]
    empty = jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), shapes)
    weights = parameters(case.name) | {
        f"image.{'.'.join(str(k.key) for k in path)}": leaf
        for path, leaf in jax.tree_util.tree_flatten_with_path(empty)[0]
    }
    return np.asarray(jax.jit(model.embed_texts)(weights, jnp.asarray(case.inputs.tokens())))


def outputs(case: GraphCase, activation: str, quick: bool = False) -> np.ndarray:
    """[N, D] float32, unnormalised, of a case's inputs; `quick` as in `numbers`."""
    if case.modality == "text":
        return text_outputs(case, activation)
    return image_outputs(case, activation, quick=quick)


def _module(case: GraphCase, activation: str) -> DualEncoder:
    """The bare module with the case's parameters."""
    config = architecture(case, activation)
    module = nnx.eval_shape(lambda: DualEncoder(config, nnx.Rngs(0)))
    state = nnx.state(module, nnx.Param)
    nnx.replace_by_pure_dict(state, unflatten_dict(parameters(case.name), sep="."))
    nnx.update(module, state)
    return module


def _block_steps(
    encoder: Encoder, x: jax.Array, mask: jax.Array | None, rotation: object
) -> Iterator[jax.Array]:
    """The tokens behind each block."""
    graph, stacked = nnx.split(encoder.blocks)
    run = jax.jit(lambda state, x: nnx.merge(graph, state)(x, mask, rotation, encoder.causal))
    for i in range(jax.tree.leaves(stacked)[0].shape[0]):
        x = run(jax.tree.map(lambda leaf, i=i: leaf[i], stacked), x)
        yield x


def trace(case: GraphCase, activation: str, names: list[str]) -> np.ndarray:
    """[N, layers, 8] summaries of what the named layers give."""
    with jax.default_matmul_precision("highest"):
        module = _module(case, activation)
        if isinstance(case.inputs, Texts):
            steps = [_text_steps(module, row) for row in case.inputs.tokens()]
        else:
            model = image_model(case, activation)
            pictures = case.inputs.arrays()
            steps = [_image_steps(model, module, pictures[i]) for i in numbers(case)]
        return np.stack([[summarise(step[name]) for name in names] for step in steps])


def _image_steps(model: Model, module: DualEncoder, picture: np.ndarray) -> dict[str, np.ndarray]:
    pixels, grid, count = _inputs(model, picture)
    tower, side = module.image, model.preprocessing.max_side
    num_prefix = tower.config.num_prefix
    steps = {"patch embedding": tower.embedding(pixels)[:, :count]}
    mask = jnp.arange(num_prefix + pixels.shape[1])[None] < num_prefix + count
    x = tower.tokens(tower.embedding(pixels), grid, side)
    steps["position"] = x
    rotation = tower.rotation(grid, pixels.shape[1])
    for i, behind in enumerate(_block_steps(tower.encoder, x, mask, rotation)):
        steps[f"block {i}"] = last = behind
    steps["final norm"] = tower.encoder.norm(last)
    steps["output"] = tower(pixels, grid, side)[:, None]
    real = num_prefix + count
    return {name: np.asarray(x)[0, :real] for name, x in steps.items()}


def _text_steps(module: DualEncoder, tokens: np.ndarray) -> dict[str, np.ndarray]:
    tower, row = module.text, jnp.asarray(tokens)[None]
    x = tower.embedding(row)
    steps = {"token embedding": x}
    x = x + tower.position[...]
    steps["position"] = x
    for i, behind in enumerate(_block_steps(tower.encoder, x, None, None)):
        steps[f"block {i}"] = last = behind
    steps["final norm"] = tower.encoder.norm(last)
    steps["output"] = tower(row)[:, None]
    return {name: np.asarray(x)[0] for name, x in steps.items()}
