"""Trains the bundled tiny SigLIP on miniature worlds whose things no benchmark world contains.

    python scripts/train_tiny.py --output data/tiny --steps 5000

Needs the `train` extra. On 2 CPU cores it takes about an hour. Every thing is of the "training"
pool, which is disjoint from every benchmark world's by a hash of the thing itself. A step shows the
model pairs of things that are easily confused (siblings), two pictures of each and a description,
and adds the sigmoid loss (Zhai et al., 2023, Algorithm 1) of pictures against descriptions and of
pictures against pictures. Writes `checkpoint.npz` (big_vision's layout, float16), the SentencePiece
model `tokenizer.model` and `provenance.json`.
"""

import concurrent.futures
import dataclasses
import datetime
import functools
import hashlib
import io
import json
import multiprocessing
import pathlib
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import sentencepiece
from absl import app, flags
from flax import nnx

from ilias_jax.dataset.world.picture import sample_clean_view, sample_view, take_picture
from ilias_jax.dataset.world.things import NUM_TEMPLATES, Thing, sample_sibling, sample_thing
from ilias_jax.pixels.device import normalize_patches, patch_grid
from ilias_jax.pixels.host import jpeg_to_patches
from ilias_jax.towers import big_vision
from ilias_jax.towers.siglip import Siglip, l2_normalize
from ilias_jax.towers.tokenizer import EOS_ID, Tokenizer, canonicalize
from ilias_jax.towers.variants import TINY, TINY_RESOLUTION

_OUTPUT = flags.DEFINE_string("output", "data/tiny", "folder of the results")
_STEPS = flags.DEFINE_integer("steps", 5000, "optimiser steps")
_PAIRS = flags.DEFINE_integer("pairs", 16, "sibling pairs in a step; 4 pictures each")
_POOL = flags.DEFINE_integer("pool", 16000, "sibling pairs rendered before training")
_SEED = flags.DEFINE_integer("seed", 20261123, "seed of things, pictures and parameters")
_RATE = flags.DEFINE_float("learning_rate", 1e-3, "peak learning rate")

MEAN = STD = (0.5, 0.5, 0.5)
VIEWS = 2  # pictures of a thing: one that may be clean, one in clutter


@dataclasses.dataclass(frozen=True)
class Pool:
    """Rendered training data: `things[i]` has the pictures VIEWS * i ... VIEWS * (i + 1) - 1."""

    things: list[Thing]  # siblings are neighbours: 2 j and 2 j + 1
    patches: np.ndarray  # [N, T, patch x patch x 3] uint8
    sizes: np.ndarray  # [N, 2] int32


def _render_pair(seed: int, index: int) -> tuple[list[Thing], list[tuple[np.ndarray, tuple]]]:
    """Two siblings and the pictures of both."""
    rng = np.random.default_rng([seed, index])
    first = sample_thing(rng, "training")
    things = [first, sample_sibling(rng, first, int(rng.integers(0, 3)))]
    pictures = []
    for thing in things:
        for view in range(VIEWS):
            clean = view == 0 and rng.random() < 0.5
            picture = take_picture(
                rng, thing, sample_clean_view(rng) if clean else sample_view(rng)
            )
            cut = jpeg_to_patches(picture.jpeg, TINY_RESOLUTION, TINY.patch_size, True)
            pictures.append((cut.pixels, cut.size))
    return things, pictures


def render_pool(seed: int, num_pairs: int) -> Pool:
    """Renders the training pictures on all cores."""
    tokens = TINY.native_grid**2
    count = num_pairs * 2 * VIEWS
    patches = np.zeros((count, tokens, TINY.patch_size**2 * 3), np.uint8)
    sizes, things = np.zeros((count, 2), np.int32), []
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(mp_context=context) as executor:
        rendered = executor.map(
            functools.partial(_render_pair, seed), range(num_pairs), chunksize=64
        )
        row = 0
        for pair, pictures in rendered:
            things += pair
            for pixels, size in pictures:
                patches[row, : len(pixels)], sizes[row] = pixels, size
                row += 1
    return Pool(things, patches, sizes)


def train_tokenizer(things: list[Thing]) -> bytes:
    """A SentencePiece unigram model of the cleaned descriptions, framed as SigLIP's is."""
    sentences = [
        canonicalize(thing.describe(template))
        for thing in things[:10_000]
        for template in range(NUM_TEMPLATES)
    ]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences),
        model_writer=model,
        vocab_size=TINY.vocab_size,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=EOS_ID,
        unk_id=2,
        bos_id=-1,
        split_by_number=True,
        num_threads=1,
        minloglevel=1,
    )
    return model.getvalue()


def sigmoid_loss(x: jax.Array, y: jax.Array, t: jax.Array, b: jax.Array) -> jax.Array:
    """Pairwise sigmoid loss of two batches [B, D] whose equal rows belong together."""
    logits = x @ y.T * jnp.exp(t) + b
    labels = 2 * jnp.eye(x.shape[0]) - 1
    return -jnp.mean(jnp.sum(jax.nn.log_sigmoid(labels * logits), axis=-1))


def loss_fn(
    model: Siglip, patches: jax.Array, sizes: jax.Array, tokens: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Loss and the share of pictures whose own description scores best.

    Args:
        model: the two towers.
        patches: [VIEWS x B, T, patch x patch x 3] uint8, all first views, then all second.
        sizes: [VIEWS x B, 2] int32.
        tokens: [B, L] int32 descriptions.
    """
    pixels = normalize_patches(patches, sizes, TINY.patch_size, MEAN, STD)
    grid = patch_grid(sizes, TINY.patch_size)
    images = l2_normalize(model.image(pixels, grid, TINY.native_grid))
    first, second = jnp.split(images, VIEWS)
    texts = l2_normalize(model.text(tokens))
    t, b = model.t[...], model.b[...]
    loss = (
        sigmoid_loss(first, texts, t, b)
        + sigmoid_loss(second, texts, t, b)
        + sigmoid_loss(first, second, t, b)
    )
    hits = jnp.mean(jnp.argmax(second @ texts.T, axis=-1) == jnp.arange(texts.shape[0]))
    return loss, hits


@nnx.jit
def train_step(
    model: Siglip,
    optimizer: nnx.Optimizer,
    patches: jax.Array,
    sizes: jax.Array,
    tokens: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """One optimiser step in place; returns loss and hit share."""
    (loss, hits), gradients = nnx.value_and_grad(loss_fn, has_aux=True)(
        model, patches, sizes, tokens
    )
    optimizer.update(model, gradients)
    return loss, hits


def make_optimizer(model: Siglip, steps: int, rate: float) -> nnx.Optimizer:
    """AdamW with warm-up and cosine decay; norms, biases, t and b are not decayed."""
    schedule = optax.warmup_cosine_decay_schedule(0.0, rate, min(300, steps // 10), steps)

    def decayed(parameters: nnx.State) -> nnx.State:
        return jax.tree.map(lambda leaf: leaf.ndim >= 3, parameters)

    return nnx.Optimizer(
        model,
        optax.chain(
            optax.clip_by_global_norm(1.0),
            optax.adamw(schedule, b2=0.98, weight_decay=0.03, mask=decayed),
        ),
        wrt=nnx.Param,
    )


def batches(pool: Pool, tokenizer: Tokenizer, pairs: int, seed: int):  # noqa: ANN201
    """Yields (patches, sizes, tokens) for ever, siblings always in the same batch."""
    rng = np.random.default_rng(seed)
    per_template = [
        tokenizer([thing.describe(i) for thing in pool.things]) for i in range(NUM_TEMPLATES)
    ]
    while True:
        order = rng.permutation(len(pool.things) // 2)
        for start in range(0, len(order) - pairs + 1, pairs):
            chosen = order[start : start + pairs]
            rows = np.stack([2 * chosen, 2 * chosen + 1], axis=1).ravel()
            pictures = np.concatenate([VIEWS * rows + view for view in range(VIEWS)])
            tokens = per_template[int(rng.integers(NUM_TEMPLATES))][rows]
            yield pool.patches[pictures], pool.sizes[pictures], tokens


def save(folder: pathlib.Path, model: Siglip, tokenizer: bytes, provenance: dict) -> None:
    """Writes the checkpoint, the tokenizer and where they come from."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {
        key: value.astype(np.float16)
        for key, value in big_vision.to_arrays(big_vision.parameters_of(model), TINY)
    }
    np.savez(folder / "checkpoint.npz", **arrays)
    (folder / "tokenizer.model").write_bytes(tokenizer)
    digest = hashlib.sha256((folder / "checkpoint.npz").read_bytes()).hexdigest()
    text = json.dumps({**provenance, "sha256": digest}, indent=2)
    (folder / "provenance.json").write_text(text + "\n")


def main(argv: list[str]) -> None:
    """Renders, trains and saves."""
    del argv
    start = time.time()
    pool = render_pool(_SEED.value, _POOL.value)
    rendered = time.time()
    print(f"rendered {len(pool.patches)} pictures in {rendered - start:.0f} s", flush=True)
    vocabulary = train_tokenizer(pool.things)
    tokenizer = Tokenizer(vocabulary, TINY.text_length)
    model = Siglip(TINY, nnx.Rngs(_SEED.value))
    optimizer = make_optimizer(model, _STEPS.value, _RATE.value)
    source = batches(pool, tokenizer, _PAIRS.value, _SEED.value)
    history = []
    for step in range(1, _STEPS.value + 1):
        loss, hits = train_step(model, optimizer, *next(source))
        history.append((loss, hits))
        if step % 100 == 0 or step == _STEPS.value:
            mean_loss, mean_hits = np.mean(jax.device_get(history), axis=0)
            history.clear()
            rate = step / (time.time() - rendered)
            print(f"step {step} loss {mean_loss:.3f} hits {mean_hits:.3f} {rate:.2f}/s", flush=True)
        if step % 1000 == 0 or step == _STEPS.value:
            save(
                pathlib.Path(_OUTPUT.value),
                model,
                vocabulary,
                {
                    "command": " ".join(["python", *sys.argv]),
                    "seed": _SEED.value,
                    "steps": step,
                    "pictures": len(pool.patches),
                    "seconds": round(time.time() - start),
                    "loss": float(mean_loss),
                    "hits_in_batch": float(mean_hits),
                    "jax": jax.__version__,
                    "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
                },
            )


if __name__ == "__main__":
    app.run(main)
