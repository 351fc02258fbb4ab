"""Trains the bundled detector and the small AMES on miniature worlds of things of their own.

    python scripts/train_tiny_reranker.py --output data/tiny

Needs the `train` extra. On 2 CPU cores it takes about half an hour. Things are of the "training"
pool, as in `train_tiny.py`. Every thing has a query's picture and two in clutter, and a sibling that
is easily taken for it. The tokens are those of the bundled tower, which stays as it is. The detector
learns first: the sum of its normalised map, weighted by its attention, must tell things apart
(Tolias et al., 2020). Then AMES (Suma et al., 2024) learns from the strongest descriptors which of
several pictures shows the query's thing: its own, its sibling's, and those that the detector's sums
take for it. Writes `detector.npz` and `ames.npz`, float16, in the names of the published ones, and
`reranker.json`, which says where they come from.
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
_PAIRS = flags.DEFINE_integer("pairs", 1500, "pairs of siblings")
_STEPS = flags.DEFINE_integer("steps", 6000, "of AMES; the detector takes a tenth")

RESOLUTION, PATCH = 192, 16
NUM_TOKENS = (RESOLUTION // PATCH) ** 2
VIEWS = 3  # a query's picture and two in clutter
DIM, WIDTH, HIDDEN, LAYERS = 192, 128, 256, 2
COUNT = 32  # descriptors of an image
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


def real_tokens(grids: jax.Array, count: int) -> jax.Array:
    """[B, count] bool."""
    return jnp.arange(count)[None, :] < (grids[:, :1] * grids[:, 1:])


def detector_loss(detector: Weights, tokens: jax.Array, grids: jax.Array) -> jax.Array:
    """Cross entropy of B things, each with VIEWS pictures: [B x VIEWS, T, D] in this order."""
    values, weights = Detector({}, "")(detector, tokens.astype(jnp.float32))
    weights = jnp.where(real_tokens(grids, tokens.shape[1]), weights, 0.0)
    whole = jnp.einsum("btd,bt->bd", values, weights)
    whole = whole / jnp.linalg.norm(whole, axis=-1, keepdims=True)
    query, *others = jnp.moveaxis(whole.reshape(-1, VIEWS, DIM), 1, 0)
    labels = jnp.arange(len(query))
    logits = [20.0 * query @ other.T for other in others]
    losses = [optax.softmax_cross_entropy_with_integer_labels(x, labels).mean() for x in logits]
    return sum(losses) / len(losses)


def make_detector(seed: int) -> Weights:
    """An untrained detector, near to the identity."""
    noise = jax.random.normal(jax.random.key(seed), (DIM, DIM)) * 0.02
    return {
        "kernel": jnp.eye(DIM) + noise,
        "bias": jnp.zeros(DIM),
        "attention": jnp.ones(DIM) * 0.01,
        "offset": jnp.zeros(()),
    }


def make_ames(seed: int) -> Weights:
    """Untrained parameters of AMES in the names of the published ones."""
    rng = np.random.default_rng(seed)

    def dense(name: str, out: int, inputs: int) -> Weights:
        kernel = rng.standard_normal((out, inputs)).astype(np.float32) * inputs**-0.5
        return {f"{name}weight": jnp.asarray(kernel), f"{name}bias": jnp.zeros(out)}

    def norm(name: str) -> Weights:
        return {f"{name}.weight": jnp.ones(WIDTH), f"{name}.bias": jnp.zeros(WIDTH)}

    found = {"mtc_token": jnp.asarray(rng.standard_normal(WIDTH).astype(np.float32) * 0.5)}
    found |= dense("remap_local.0.", WIDTH, DIM) | norm("remap_local.1")
    for layer in range(LAYERS):
        at = f"decoder.layers.{layer}."
        for attention in ("self_attn", "cross_attn"):
            found |= dense(f"{at}{attention}.in_proj_", 3 * WIDTH, WIDTH)
            found |= dense(f"{at}{attention}.out_proj.", WIDTH, WIDTH)
        found |= dense(f"{at}linear1.", HIDDEN, WIDTH) | dense(f"{at}linear2.", WIDTH, HIDDEN)
        for number in (1, 2, 3):
            found |= norm(f"{at}norm{number}")
    return found | dense("classifier.", 1, WIDTH)


def ames(weights: Weights, query: jax.Array, image: jax.Array, real: jax.Array) -> jax.Array:
    """Logits [P] of pairs of descriptors [P, n, D] each; real [P, 2 n] bool; see `rerank.ames`."""

    def dense(name: str, x: jax.Array) -> jax.Array:
        return x @ weights[f"{name}weight"].T + weights[f"{name}bias"]

    def norm(name: str, x: jax.Array) -> jax.Array:
        centred = x - x.mean(axis=-1, keepdims=True)
        variance = jnp.square(centred).mean(axis=-1, keepdims=True)
        scaled = centred * jax.lax.rsqrt(variance + 1e-5)
        return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def attend(name: str, x: jax.Array, allowed: jax.Array) -> jax.Array:
        parts = jnp.split(dense(f"{name}.in_proj_", x), 3, axis=-1)
        q, k, v = (part.reshape(*part.shape[:2], 2, -1) for part in parts)
        logits = jnp.einsum("pihc,pjhc->phij", q, k) * q.shape[-1] ** -0.5
        shares = jax.nn.softmax(jnp.where(allowed, logits, -1e9), axis=-1)
        mixed = jnp.einsum("phij,pjhc->pihc", shares, v).reshape(x.shape)
        return dense(f"{name}.out_proj.", mixed)

    count = query.shape[1]
    local = jnp.concatenate([query, image], axis=1)
    local = norm("remap_local.1", dense("remap_local.0.", local))
    token = jnp.broadcast_to(weights["mtc_token"], (len(local), 1, WIDTH))
    x = jnp.concatenate([token, local], axis=1)
    side = jnp.concatenate([jnp.zeros(1), jnp.ones(count), jnp.full(count, 2.0)])
    match = (side == 0)[:, None] | (side == 0)[None, :]
    same = side[:, None] == side[None, :]
    keys = jnp.concatenate([jnp.ones((len(x), 1), bool), real], axis=1)[:, None, None, :]
    for layer in range(LAYERS):
        at = f"decoder.layers.{layer}."
        x = norm(f"{at}norm1", x + attend(f"{at}self_attn", x, keys & (match | same)))
        x = norm(f"{at}norm2", x + attend(f"{at}cross_attn", x, keys & (match | ~same)))
        hidden = dense(f"{at}linear2.", jax.nn.relu(dense(f"{at}linear1.", x)))
        x = norm(f"{at}norm3", x + hidden)
    return dense("classifier.", x[:, 0])[:, 0]


def ames_loss(weights: Weights, values: jax.Array, counts: jax.Array, rows: jax.Array) -> jax.Array:
    """Cross entropy over the pictures of each query, the first of which shows its thing.

    Args:
        weights: of AMES.
        values, counts: [N, n, D] and [N] of all pictures.
        rows: [B, 1 + C] int32: a query and C pictures.
    """
    query, images = rows[:, :1], rows[:, 1:]
    pairs = [jnp.broadcast_to(query, images.shape).reshape(-1), images.reshape(-1)]
    sides = [values[side].astype(jnp.float32) for side in pairs]
    real = [jnp.arange(COUNT)[None, :] < counts[side][:, None] for side in pairs]
    logits = ames(weights, *sides, jnp.concatenate(real, axis=1)).reshape(images.shape)
    labels = jnp.zeros(images.shape).at[:, 0].set(1.0)
    binary = optax.sigmoid_binary_cross_entropy(logits, labels).mean()
    first = jnp.zeros(len(logits), jnp.int32)
    return binary + optax.softmax_cross_entropy_with_integer_labels(logits, first).mean()


def train(
    weights: Weights, loss: Any, source: Iterator[tuple[Any, ...]], steps: int, rate: float
) -> tuple[Weights, float]:
    """AdamW with warm-up and cosine decay; returns the weights and the last mean loss."""
    schedule = optax.warmup_cosine_decay_schedule(0.0, rate, min(200, steps // 5 + 1), steps)
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0), optax.adamw(schedule, b2=0.98, weight_decay=0.01)
    )

    @jax.jit
    def step(weights: Weights, state: Any, *batch: Any) -> tuple[Weights, Any, jax.Array]:
        value, gradients = jax.value_and_grad(loss)(weights, *batch)
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


def detector_batches(
    tokens: np.ndarray, grids: np.ndarray, seed: int, pairs: int = 24
) -> Iterator[tuple[Any, ...]]:
    """Yields tokens and grids of siblings for ever."""
    rng = np.random.default_rng(seed)
    size = 2 * VIEWS
    while True:
        chosen = rng.integers(0, len(tokens) // size, pairs)
        rows = (chosen[:, None] * size + np.arange(size)).ravel()
        yield tokens[rows], grids[rows]


def hard_negatives(whole: np.ndarray, most: int = 100) -> np.ndarray:
    """[things, most] the pictures in clutter whose sums are most like a thing's query."""
    queries = whole[::VIEWS]
    others = np.flatnonzero(np.arange(len(whole)) % VIEWS)
    found = []
    for first in range(0, len(queries), 256):
        part = queries[first : first + 256] @ whole[others].T
        own = np.arange(first, first + len(part))[:, None] == others[None, :] // VIEWS
        part[own] = -np.inf
        found.append(others[np.argpartition(-part, most, axis=1)[:, :most]])
    return np.concatenate(found)


def ames_batches(
    values: jax.Array, counts: jax.Array, hard: np.ndarray, seed: int, size: int = 12
) -> Iterator[tuple[Any, ...]]:
    """Yields queries with a picture of their thing, one of its sibling and two hard ones."""
    rng = np.random.default_rng(seed)
    while True:
        things = rng.integers(0, len(hard), size)
        view, other = (rng.integers(1, VIEWS, size) for _ in range(2))
        positive, sibling = things * VIEWS + view, (things ^ 1) * VIEWS + other
        drawn = hard[things[:, None], rng.integers(0, hard.shape[1], (size, 2))]
        rows = np.concatenate([np.stack([things * VIEWS, positive, sibling], 1), drawn], axis=1)
        yield values, counts, rows.astype(np.int32)


@functools.partial(jax.jit, static_argnames="count")
def described(
    detector: Weights, tokens: jax.Array, grids: jax.Array, count: int
) -> tuple[jax.Array, ...]:
    """The strongest descriptors, their number, and the normalised weighted sum of all."""
    values, weights = Detector({}, "")(detector, tokens.astype(jnp.float32))
    kept, _, _, counts = strongest(values, weights, grids, count)
    weights = jnp.where(real_tokens(grids, tokens.shape[1]), weights, 0.0)
    whole = jnp.einsum("btd,bt->bd", values, weights)
    return kept.astype(jnp.float16), counts, whole / jnp.linalg.norm(whole, axis=-1, keepdims=True)


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


def save(path: pathlib.Path, arrays: dict[str, Any]) -> str:
    """Writes float16 arrays; returns the sha256 of the file."""
    np.savez(path, **{name: np.asarray(array, np.float16) for name, array in arrays.items()})
    return hashlib.sha256(path.read_bytes()).hexdigest()


def main(argv: list[str]) -> None:
    """Trains both and saves them."""
    del argv
    start, seed, folder = time.time(), _SEED.value, pathlib.Path(_OUTPUT.value)
    tokens, grids = make_tokens(seed, _PAIRS.value)
    print(f"{len(tokens)} pictures in {time.time() - start:.0f} s", flush=True)
    source = detector_batches(tokens, grids, seed)
    detector, detector_last = train(
        make_detector(seed), detector_loss, source, _STEPS.value // 10, 1e-3
    )
    parts = [
        jax.device_get(described(detector, tokens[i : i + 192], grids[i : i + 192], COUNT))
        for i in range(0, len(tokens), 192)
    ]
    values, counts, whole = (np.concatenate(column) for column in zip(*parts, strict=True))
    del tokens
    batches = ames_batches(*jax.device_put((values, counts)), hard_negatives(whole), seed)
    weights, ames_last = train(make_ames(seed), ames_loss, batches, _STEPS.value, 1e-3)
    provenance = {
        "command": " ".join(["python", *sys.argv]),
        "seed": seed,
        "pictures": len(values),
        "steps": _STEPS.value,
        "loss": {"detector": detector_last, "ames": ames_last},
        "seconds": round(time.time() - start),
        "jax": jax.__version__,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "sha256": {
            "detector.npz": save(folder / "detector.npz", to_published(detector)),
            "ames.npz": save(folder / "ames.npz", dict(weights)),
        },
    }
    (folder / "reranker.json").write_text(json.dumps(provenance, indent=2) + "\n")


if __name__ == "__main__":
    app.run(main)
