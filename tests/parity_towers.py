"""Our towers with seeded weights, run as the program runs them and layer by layer."""

import dataclasses
import functools
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
import parity_weights as seeded
from flax import nnx
from flax.traverse_util import unflatten_dict
from parity_cases import CASES, DATA, Case
from parity_summary import summarise
from parity_weights import Sizes

from ilias_jax.model import ImageFunction, Model, Preprocessing
from ilias_jax.models.checkpoints.flax_names import from_big_vision
from ilias_jax.models.dual_encoder import DualEncoder, DualEncoderConfig
from ilias_jax.models.layers import Encoder, TransformerSize
from ilias_jax.models.load import tower_model
from ilias_jax.models.positions import position_embedding
from ilias_jax.models.registry.siglip import siglip
from ilias_jax.models.tokenizers import Tokenizer
from ilias_jax.preprocessing.decode import Patches, jpeg_to_patches
from ilias_jax.preprocessing.resize import normalize_patches, patch_grid

Parameters = dict[str, jax.Array]


@functools.cache
def values(name: str) -> dict[str, np.ndarray]:
    """The file of expected values of a case."""
    with np.load(DATA / f"parity_{name}.npz", allow_pickle=False) as archive:
        return dict(archive)


def config(sizes: Sizes, activation: str, naflex: bool = False) -> DualEncoderConfig:
    return siglip(
        image=TransformerSize(**sizes.image),
        text=TransformerSize(**sizes.text),
        patch_size=sizes.patch,
        native_grid=sizes.native_grid,
        vocab_size=sizes.vocab,
        text_length=sizes.text_length,
        activation=activation,
        text_head=sizes.text_head,
        naflex=naflex,
    )


@functools.lru_cache(maxsize=1)  # those of g-opt take 6 GB
def parameters(name: str) -> Parameters:
    """The seeded weights of a case, by our names."""
    sizes, weights = CASES[name].sizes, seeded.weights(CASES[name].sizes)
    if is_naflex(name):  # its files have a dense layer and a grid
        width, side = sizes.image["width"], sizes.native_grid
        weights["img/embedding/kernel"] = weights["img/embedding/kernel"].reshape(-1, width)
        weights["img/pos_embedding"] = weights["img/pos_embedding"].reshape(side, side, width)
    architecture = config(sizes, "gelu_exact", is_naflex(name))
    ours = from_big_vision(weights, architecture, name)
    weights.clear()  # of g-opt 6 GB
    return jax.device_put(ours)


def is_naflex(name: str) -> bool:
    return CASES[name].timm_name.startswith("naflex")


@functools.cache
def _without_parameters(name: str, activation: str, dtype: str) -> Model:
    case = CASES[name]
    tokenizer = Tokenizer(b"unused", case.sizes.text_length)
    sizes, resolution = config(case.sizes, activation, is_naflex(name)), max(case.resolutions)
    return tower_model(name, sizes, {}, tokenizer, resolution, dtype, {})


def model(
    name: str, activation: str, dtype: str = "float32", changed: Parameters | None = None
) -> Model:
    """A case's model, with other parameters than its own if there are any."""
    weights = parameters(name) if changed is None else changed
    bare = _without_parameters(name, activation, dtype)
    return dataclasses.replace(bare, parameters=weights)


@dataclasses.dataclass(frozen=True)
class Batch:
    """One picture, padded with pixels of 255, which would show if they were not ignored.

    Attributes:
        patches: [1, T, patch x patch x 3] uint8.
        size: [1, 2] int32 height and width.
        num_tokens: those that are real.
    """

    patches: jax.Array
    size: jax.Array
    num_tokens: int


def batches(case: Case, resolution: int) -> Iterator[Batch]:
    """Every picture of a case."""
    for picture in case.pictures():
        png, patch = seeded.png(picture), case.sizes.patch
        cut: Patches = jpeg_to_patches(png, resolution, patch, exif_transpose=True)
        count = len(cut.pixels)
        room = -(-count // 192) * 192  # few compilations
        padding = ((0, room - count), (0, 0))
        padded = np.pad(cut.pixels, padding, constant_values=255)
        yield Batch(jnp.asarray(padded)[None], jnp.asarray([cut.size], jnp.int32), count)


def image_embeddings(how: Model, resolution: int) -> np.ndarray:
    """[N, D] float32, unnormalised, of a case's pictures, by the function that a run calls."""
    step, case = _image_step(how.embed_images, how.preprocessing), CASES[how.name]
    vectors = [step(how.parameters, b.patches, b.size) for b in batches(case, resolution)]
    return np.concatenate(vectors)


def text_embeddings(how: Model) -> np.ndarray:
    """[N, D] float32, unnormalised, of a case's texts."""
    tokens = jnp.asarray(seeded.tokens(CASES[how.name].sizes))
    return np.asarray(jax.jit(how.embed_texts)(how.parameters, tokens))


@functools.cache
def _image_step(embed: ImageFunction, how: Preprocessing) -> Callable[..., jax.Array]:
    """The jitted function, one for all parameters."""

    def step(weights: Parameters, patches: jax.Array, size: jax.Array) -> jax.Array:
        return embed(weights, *_pixels(how, patches, size))

    return jax.jit(step)


@functools.partial(jax.jit, static_argnums=0)
def _pixels(how: Preprocessing, patches: jax.Array, size: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Normalised pixels and grids."""
    pixels = normalize_patches(patches, size, how.patch_size, how.mean, how.std)
    return pixels, patch_grid(size, how.patch_size)


@functools.cache
def _abstract(name: str, activation: str) -> DualEncoder:
    """The bare module without parameters; the same object, so that its parts compile once."""
    sizes = config(CASES[name].sizes, activation, is_naflex(name))
    return nnx.eval_shape(lambda: DualEncoder(sizes, nnx.Rngs(0)))


def _module(how: Model) -> DualEncoder:
    """The bare module with the model's parameters."""
    module = _abstract(how.name, how.fingerprint["activation"])
    state = nnx.state(module, nnx.Param)
    nnx.replace_by_pure_dict(state, unflatten_dict(how.parameters, sep="."))
    nnx.update(module, state)
    return module


@functools.partial(jax.jit, static_argnums=0)
def _merge_and_call(graph: nnx.GraphDef, state: nnx.State, *arguments: jax.Array) -> jax.Array:
    with jax.default_matmul_precision("highest"):
        return nnx.merge(graph, state)(*arguments)


def _call(part: nnx.Module, *arguments: jax.Array) -> jax.Array:
    """Runs a part of a tower by itself."""
    return _merge_and_call(*nnx.split(part), *arguments)


_position = jax.jit(position_embedding, static_argnums=(2, 3, 4))


def _encoder_steps(encoder: Encoder, x: jax.Array, mask: jax.Array) -> Iterator[jax.Array]:
    """The tokens behind each block and behind the norm."""
    graph, stacked = nnx.split(encoder.blocks)
    for i in range(jax.tree.leaves(stacked)[0].shape[0]):
        x = _merge_and_call(graph, jax.tree.map(lambda leaf, i=i: leaf[i], stacked), x, mask)
        yield x
    yield _call(encoder.norm, x)


def _image_steps(how: Model, batch: Batch) -> Iterator[jax.Array]:
    tower, size = _module(how).image, batch.size
    form = how.preprocessing
    pixels, grid = _pixels(form, batch.patches, size)
    mask = jnp.arange(pixels.shape[1])[None] < batch.num_tokens
    x = _call(tower.embedding, pixels)
    yield x
    rule = tower.config.position
    x = x + _position(tower.position[...], grid, pixels.shape[1], form.max_side, rule)
    yield x
    for behind in _encoder_steps(tower.encoder, x, mask):
        yield (x := behind)
    yield _call(tower.head, x, mask)


def _text_steps(how: Model) -> Iterator[jax.Array]:
    tower, tokens = _module(how).text, jnp.asarray(seeded.tokens(CASES[how.name].sizes))
    x = _call(tower.embedding, tokens)
    yield x
    x = x + tower.position[...]
    yield x
    for behind in _encoder_steps(tower.encoder, x, jnp.ones(tokens.shape, bool)):
        yield (x := behind)
    if CASES[how.name].sizes.text_head:
        yield _call(tower.head, x[:, -1:])


def image_trace(how: Model, resolution: int) -> np.ndarray:
    """[N, layers, 8] summaries of what each layer gives, as `parity_summary.image_layers`."""
    return np.stack(
        [
            [summarise(np.asarray(x).reshape(-1, x.shape[-1])[: b.num_tokens]) for x in steps]
            for b in batches(CASES[how.name], resolution)
            for steps in [_image_steps(how, b)]
        ]
    )


def text_trace(how: Model) -> np.ndarray:
    """[N, layers, 8] summaries of what each layer gives, as `parity_summary.text_layers`."""
    return np.stack([[summarise(row) for row in np.asarray(x)] for x in _text_steps(how)], axis=1)
