"""Trains the bundled detector of local descriptors on miniature worlds of things of their own.

    python scripts/train_tiny_detector.py --output data/tiny

Needs the `train` extra. On 2 CPU cores it takes about half an hour. Things are of the "training"
pool, as in `train_tiny.py`. Every thing has a query's picture and two in clutter, and a sibling
that is easily taken for it. The tokens are those of the bundled tower, which stays as it is. The
detector learns to tell things apart by the sum of its normalised map, weighted by its attention
(Tolias et al., 2020), and by the Chamfer similarity of its strongest descriptors. Writes
`detector.npz`, float16, in the names of the published ones, and `detector.json`, which says where
it comes from.
"""

import concurrent.futures
import datetime
import functools
import hashlib
import json
import multiprocessing
import pathlib
import sys
import time
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import app, flags

from ilias_jax.config import ModelConfig
from ilias_jax.dataset.synthetic.objects import sample_sibling, sample_thing
from ilias_jax.dataset.synthetic.scene import sample_clean_view, sample_view, take_picture
from ilias_jax.models import hub
from ilias_jax.models.load import load_model
from ilias_jax.models.registry.registry import resolve
from ilias_jax.preprocessing.decode import Patches
from ilias_jax.preprocessing.local_patches import jpeg_to_local_patches
from ilias_jax.preprocessing.resize import normalize_patches, patch_grid
from ilias_jax.rerank.detector import Detector, strongest

_OUTPUT = flags.DEFINE_string("output", "data/tiny", "folder of the results")
_SEED = flags.DEFINE_integer("seed", 20261201, "seed of things, pictures and parameters")
_PAIRS = flags.DEFINE_integer("pairs", 2000, "pairs of siblings")
_STEPS = flags.DEFINE_integer("steps", 2500, "of the optimiser")

RESOLUTION, PATCH = 256, 16
NUM_TOKENS = (RESOLUTION // PATCH) ** 2
VIEWS = 3  # a query's picture and two in clutter
DIM = 192  # channels of a token
COUNT = 48  # descriptors of an image
Weights = dict[str, jax.Array]


@functools.cache
def tower() -> Any:
    """The bundled tower at the resolution of the descriptors."""
    config = ModelConfig(name="tiny", towers="image", resolution=RESOLUTION)
    return load_model(resolve(config, max_scale=1.0, num_buckets=1, bring=hub.bring))


def render_pair(seed: int, index: int) -> list[Patches]:
    """The pictures of two siblings, a thing's VIEWS after the other's."""
    rng = np.random.default_rng([seed, index])
    first = sample_thing(rng, "training")
    found = []
    for thing in (first, sample_sibling(rng, first, int(rng.integers(0, 3)))):
        for view in range(VIEWS):
            drawn = sample_clean_view(rng) if view == 0 else sample_view(rng)
            jpeg = take_picture(rng, thing, drawn).jpeg
            found.append(
                jpeg_to_local_patches(jpeg, (), tower().preprocessing, "area_linear", True)
            )
    return found


@jax.jit
def tokens_of(parameters: Any, patches: jax.Array, sizes: jax.Array) -> jax.Array:
    """[B, T, D] float16 tokens of pictures."""
    preprocessing = tower().preprocessing
    pixels = normalize_patches(patches, sizes, PATCH, preprocessing.mean, preprocessing.std)
    return tower().embed_patches(parameters, pixels, patch_grid(sizes, PATCH)).astype(jnp.float16)


def make_tokens(seed: int, pairs: int) -> tuple[np.ndarray, np.ndarray]:
    """Tokens [N, T, D] float16 and grids [N, 2] int32 of all pictures, rendered on all cores."""
    count = pairs * 2 * VIEWS
    tokens = np.zeros((count, NUM_TOKENS, DIM), np.float16)
    sizes = np.ones((count, 2), np.int32)
    context, step = multiprocessing.get_context("spawn"), 2 * VIEWS * 16
    patches = np.zeros((step, NUM_TOKENS, PATCH**2 * 3), np.uint8)
    row = 0
    with concurrent.futures.ProcessPoolExecutor(mp_context=context) as executor:
        for pictures in executor.map(
            functools.partial(render_pair, seed), range(pairs), chunksize=16
        ):
            for picture in pictures:
                patches[row % step, : len(picture.pixels)] = picture.pixels
                sizes[row] = picture.size
                row += 1
            if row % step == 0 or row == count:
                first = (row - 1) // step * step
                part = np.asarray(
                    tokens_of(tower().parameters, patches, _filled(sizes, first, step))
                )
                tokens[first:row] = part[: row - first]
    return tokens, -(-sizes // PATCH)


def _filled(sizes: np.ndarray, first: int, step: int) -> np.ndarray:
    part = np.ones((step, 2), np.int32)
    part[: len(sizes[first : first + step])] = sizes[first : first + step]
    return part


def loss_fn(detector: Weights, tokens: jax.Array, grids: jax.Array) -> jax.Array:
    """Cross entropy of B things, each with VIEWS pictures: [B x VIEWS, T, D] in this order.

    Half of it by the weighted sums of the map, which teach the attention; half by the mean over the
    query's strongest descriptors of their best match in a picture, as `rerank.chamfer` scores.
    """
    values, weights = Detector({}, "")(detector, tokens.astype(jnp.float32))
    real = jnp.arange(tokens.shape[1])[None, :] < grids[:, :1] * grids[:, 1:]
    whole = jnp.einsum("btd,bt->bd", values, jnp.where(real, weights, 0.0))
    whole = whole / jnp.linalg.norm(whole, axis=-1, keepdims=True)
    kept, _, _, counts = strongest(values, jax.lax.stop_gradient(weights), grids, COUNT)
    real = jnp.arange(COUNT)[None, :] < counts[:, None]
    parts = (jnp.where(real[..., None], kept, 0.0), real, whole)
    query, *others = zip(*(_by_view(part) for part in parts), strict=True)
    losses = []
    for image in others:
        losses += [_entropy(20.0 * query[2] @ image[2].T), _entropy(25.0 * chamfer(query, image))]
    return jnp.stack(losses).mean()


def _by_view(array: jax.Array) -> jax.Array:
    return jnp.moveaxis(array.reshape(-1, VIEWS, *array.shape[1:]), 1, 0)


def _entropy(logits: jax.Array) -> jax.Array:
    labels = jnp.arange(len(logits))
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def chamfer(query: tuple[jax.Array, ...], image: tuple[jax.Array, ...]) -> jax.Array:
    """[B, B] similarities of descriptors [B, n, D], of which [B, n] are real."""
    products = jnp.einsum("bnd,cmd->bcnm", query[0], image[0])
    best = jnp.where(image[1][None, :, None, :], products, -2.0).max(axis=-1)
    real = query[1][:, None, :]
    return jnp.where(real, best, 0.0).sum(axis=-1) / real.sum(axis=-1)


def make_detector(seed: int) -> Weights:
    """An untrained detector, near to the identity."""
    noise = jax.random.normal(jax.random.key(seed), (DIM, DIM)) * 0.02
    return {
        "kernel": jnp.eye(DIM) + noise,
        "bias": jnp.zeros(DIM),
        "attention": jnp.ones(DIM) * 0.01,
        "offset": jnp.zeros(()),
    }


def train(
    weights: Weights, source: Iterator[tuple[Any, ...]], steps: int, rate: float
) -> tuple[Weights, float]:
    """AdamW with warm-up and cosine decay; returns the weights and the last mean loss."""
    schedule = optax.warmup_cosine_decay_schedule(0.0, rate, min(200, steps // 5 + 1), steps)
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0), optax.adamw(schedule, b2=0.98, weight_decay=0.01)
    )

    @jax.jit
    def step(weights: Weights, state: Any, *batch: Any) -> tuple[Weights, Any, jax.Array]:
        value, gradients = jax.value_and_grad(loss_fn)(weights, *batch)
        updates, state = optimizer.update(gradients, state, weights)
        return optax.apply_updates(weights, updates), state, value

    state, history, start = optimizer.init(weights), [], time.time()
    last = float("nan")
    for number in range(1, steps + 1):
        weights, state, value = step(weights, state, *next(source))
        history.append(value)
        if number % 200 == 0 or number == steps:
            last = float(np.mean(jax.device_get(history)))
            history.clear()
            print(
                f"step {number} loss {last:.3f} {number / (time.time() - start):.1f}/s", flush=True
            )
    return weights, last


def batches(
    tokens: np.ndarray, grids: np.ndarray, seed: int, pairs: int = 16
) -> Iterator[tuple[Any, ...]]:
    """Yields tokens and grids of siblings for ever."""
    rng = np.random.default_rng(seed)
    size = 2 * VIEWS
    while True:
        chosen = rng.integers(0, len(tokens) // size, pairs)
        rows = (chosen[:, None] * size + np.arange(size)).ravel()
        yield tokens[rows], grids[rows]


def to_published(detector: Weights) -> dict[str, np.ndarray]:
    """A detector in the names of the published ones; its batch norm changes nothing."""
    host = {name: np.asarray(array) for name, array in detector.items()}
    ones, zeros = np.ones(DIM, np.float32), np.zeros(DIM, np.float32)
    return {
        "conv1.weight": host["kernel"].T[:, :, None, None],
        "conv1.bias": host["bias"],
        "bn.weight": np.sqrt(ones + np.float32(1e-5)),
        "bn.bias": zeros,
        "bn.running_mean": zeros,
        "bn.running_var": ones,
        "conv2.weight": host["attention"][None, :, None, None],
        "conv2.bias": host["offset"][None],
    }


def save(folder: pathlib.Path, detector: Weights, provenance: dict[str, Any]) -> None:
    """Writes the detector as float16, and where it comes from."""
    path = folder / "detector.npz"
    published = to_published(detector).items()
    arrays: dict[str, Any] = {name: array.astype(np.float16) for name, array in published}
    np.savez(path, **arrays)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    text = json.dumps({**provenance, "sha256": digest}, indent=2)
    (folder / "detector.json").write_text(text + "\n")


def main(argv: list[str]) -> None:
    """Trains and saves."""
    del argv
    start, seed = time.time(), _SEED.value
    tokens, grids = make_tokens(seed, _PAIRS.value)
    print(f"{len(tokens)} pictures in {time.time() - start:.0f} s", flush=True)
    source = batches(tokens, grids, seed)
    detector, last = train(make_detector(seed), source, _STEPS.value, 1e-3)
    provenance = {
        "command": " ".join(["python", *sys.argv]),
        "seed": seed,
        "pictures": len(tokens),
        "steps": _STEPS.value,
        "loss": last,
        "seconds": round(time.time() - start),
        "jax": jax.__version__,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    save(pathlib.Path(_OUTPUT.value), detector, provenance)


if __name__ == "__main__":
    app.run(main)
