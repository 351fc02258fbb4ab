"""Trains the bundled tiny SigLIP on miniature worlds whose things no benchmark world contains.

    python scripts/train_tiny.py --output data/tiny

Needs the `train` extra. On 2 CPU cores it takes about an hour. Every thing is of the "training"
pool, which is disjoint from every benchmark world's by a hash of the thing itself. A step shows the
model pairs of things that are easily confused (siblings), two pictures of each and a description,
and adds the sigmoid loss (Zhai et al., 2023, Algorithm 1) of pictures against descriptions and of
pictures against pictures. A first phase learns what things look like on small cut-outs of 16
patches around them, at a quarter of the cost; a second one learns to find them in whole pictures.
Writes `checkpoint.npz` (big_vision's layout, float16), the SentencePiece model `tokenizer.model`
and `provenance.json`.
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
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import sentencepiece
from absl import app, flags
from flax import nnx
from PIL import Image

from ilias_jax.dataset.synthetic.objects import NUM_TEMPLATES, Thing, sample_sibling, sample_thing
from ilias_jax.dataset.synthetic.scene import Picture, sample_clean_view, sample_view, take_picture
from ilias_jax.models.checkpoints.flax_names import to_big_vision
from ilias_jax.models.dual_encoder import DualEncoder
from ilias_jax.models.parameters import parameters_of
from ilias_jax.models.registry.siglip import (
    TINY,
    TINY_GRID,
    TINY_LENGTH,
    TINY_PATCH,
    TINY_RESOLUTION,
    TINY_VOCABULARY,
)
from ilias_jax.models.tokenizers import EOS_ID, Tokenizer, canonicalize
from ilias_jax.preprocessing.decode import Patches, decode, jpeg_to_patches, to_patches
from ilias_jax.preprocessing.resize import normalize_patches, patch_grid

_OUTPUT = flags.DEFINE_string("output", "data/tiny", "folder of the results")
_SCALE = flags.DEFINE_float("scale", 1.0, "shortens or prolongs all phases")
_SEED = flags.DEFINE_integer("seed", 20261123, "seed of things, pictures and parameters")

MEAN = STD = (0.5, 0.5, 0.5)
VIEWS = 2  # pictures of a thing: one that may be clean, one in clutter
CUTOUT = 64  # pixels of a cut-out's side


@dataclasses.dataclass(frozen=True)
class Phase:
    """One phase of training.

    Attributes:
        name: for the log.
        cutouts: whether it shows cut-outs around the thing or whole pictures.
        steps: optimiser steps.
        pairs: sibling pairs in a step; 4 pictures each.
        pool: sibling pairs rendered before the phase.
        rate: peak learning rate.
    """

    name: str
    cutouts: bool
    steps: int
    pairs: int
    pool: int
    rate: float

    def scaled(self, scale: float) -> "Phase":
        """The phase with fewer or more steps and pictures."""
        return dataclasses.replace(
            self, steps=max(1, int(self.steps * scale)), pool=max(64, int(self.pool * scale))
        )


PHASES = (
    Phase("cut-outs", True, 3500, 32, 9000, 1e-3),
    Phase("whole pictures", False, 900, 16, 3000, 4e-4),
)


@dataclasses.dataclass(frozen=True)
class Pool:
    """Rendered training data: `things[i]` has the pictures VIEWS * i ... VIEWS * (i + 1) - 1.

    Attributes:
        things: siblings are neighbours, 2 j and 2 j + 1.
        patches: [N, T, patch x patch x 3] uint8.
        sizes: [N, 2] int32 height and width in pixels.
    """

    things: list[Thing]
    patches: np.ndarray
    sizes: np.ndarray


def l2_normalize(x: jax.Array, epsilon: float = 1e-12) -> jax.Array:
    """Divides [..., D] float32 by max(norm, epsilon) over the last axis."""
    return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), epsilon)


def _cut_out(rng: np.random.Generator, picture: Picture) -> Patches:
    """A square around the thing, which is 24 to 60 of its 64 pixels large."""
    image = decode(picture.jpeg, exif_transpose=True)
    x, y, width, height = picture.box
    side = CUTOUT * max(width, height) / rng.uniform(24, 60)
    side = min(side, image.width, image.height)
    corner = []
    for start, length, limit in ((x, width, image.width), (y, height, image.height)):
        low, high = sorted((start, start + length - side))
        corner.append(float(np.clip(rng.uniform(low, high), 0, limit - side)))
    box = (corner[0], corner[1], corner[0] + side, corner[1] + side)
    cut = image.resize((CUTOUT, CUTOUT), Image.Resampling.BICUBIC, box=box)
    return to_patches(np.asarray(cut), TINY_PATCH)


def _render_pair(seed: int, cutouts: bool, index: int) -> tuple[list[Thing], list[Patches]]:
    """Two siblings and the pictures of both."""
    rng = np.random.default_rng([seed, int(cutouts), index])
    first = sample_thing(rng, "training")
    things = [first, sample_sibling(rng, first, int(rng.integers(0, 3)))]
    pictures = []
    for thing in things:
        for view in range(VIEWS):
            clean = view == 0 and rng.random() < 0.5
            taken = take_picture(rng, thing, sample_clean_view(rng) if clean else sample_view(rng))
            pictures.append(
                _cut_out(rng, taken)
                if cutouts
                else jpeg_to_patches(taken.jpeg, TINY_RESOLUTION, TINY_PATCH, True)
            )
    return things, pictures


def render_pool(seed: int, phase: Phase) -> Pool:
    """Renders a phase's pictures on all cores."""
    tokens = (CUTOUT // TINY_PATCH) ** 2 if phase.cutouts else TINY_GRID**2
    count = phase.pool * 2 * VIEWS
    patches = np.zeros((count, tokens, TINY_PATCH**2 * 3), np.uint8)
    sizes, things = np.zeros((count, 2), np.int32), []
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(mp_context=context) as executor:
        render = functools.partial(_render_pair, seed, phase.cutouts)
        row = 0
        for pair, pictures in executor.map(render, range(phase.pool), chunksize=64):
            things += pair
            for picture in pictures:
                patches[row, : len(picture.pixels)] = picture.pixels
                sizes[row] = picture.size
                row += 1
    return Pool(things, patches, sizes)


def train_tokenizer(seed: int) -> bytes:
    """A SentencePiece unigram model of cleaned descriptions, framed as SigLIP's is."""
    rng = np.random.default_rng(seed)
    sentences = [
        canonicalize(sample_thing(rng, "training").describe(template))
        for template in range(NUM_TEMPLATES)
        for _ in range(5000)
    ]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences),
        model_writer=model,
        vocab_size=TINY_VOCABULARY,
        hard_vocab_limit=False,
        normalization_rule_name="identity",  # the texts are cleaned before
        pad_id=0,
        eos_id=EOS_ID,
        unk_id=2,
        bos_id=-1,
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
    model: DualEncoder, patches: jax.Array, sizes: jax.Array, tokens: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Loss and the share of pictures whose own description scores best.

    Args:
        model: the two towers.
        patches: [VIEWS x B, T, patch x patch x 3] uint8, all first views, then all second.
        sizes: [VIEWS x B, 2] int32.
        tokens: [B, L] int32 descriptions.
    """
    pixels = normalize_patches(patches, sizes, TINY_PATCH, MEAN, STD)
    grid = patch_grid(sizes, TINY_PATCH)
    images = l2_normalize(model.image(pixels, grid, TINY_GRID))
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
    model: DualEncoder,
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


def make_model(seed: int, batch_size: int) -> DualEncoder:
    """The untrained model, its bias set so that a batch starts balanced.

    The paper's bias of -10 suits batches of 32,768. A batch of B has B - 1 negatives for every
    positive, which a bias of about -log(B) offsets.
    """
    model = DualEncoder(TINY, nnx.Rngs(seed))
    model.b[...] = jnp.full((1,), -np.log(batch_size), jnp.float32)
    return model


def make_optimizer(model: DualEncoder, phase: Phase) -> nnx.Optimizer:
    """AdamW with warm-up and cosine decay; norms, biases, t and b are not decayed."""
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, phase.rate, min(200, phase.steps // 5 + 1), phase.steps, 0.05 * phase.rate
    )

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


def batches(
    pool: Pool, tokenizer: Tokenizer, pairs: int, seed: int
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
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


def train_phase(
    model: DualEncoder, tokenizer: Tokenizer, phase: Phase, seed: int
) -> dict[str, Any]:
    """Renders and trains one phase; returns what the provenance says of it."""
    start = time.time()
    pool = render_pool(seed, phase)
    rendered = time.time()
    print(f"{phase.name}: rendered {len(pool.patches)} in {rendered - start:.0f} s", flush=True)
    optimizer = make_optimizer(model, phase)
    source = batches(pool, tokenizer, phase.pairs, seed)
    history = []
    for step in range(1, phase.steps + 1):
        history.append(train_step(model, optimizer, *jax.device_put(next(source))))
        if step % 100 == 0 or step == phase.steps:
            loss, hits = np.mean(jax.device_get(history), axis=0)
            history.clear()
            rate = step / (time.time() - rendered)
            print(f"step {step} loss {loss:.3f} hits {hits:.3f} {rate:.2f}/s", flush=True)
    return {
        **dataclasses.asdict(phase),
        "pictures": len(pool.patches),
        "seconds": round(time.time() - start),
        "loss": float(loss),
        "hits_in_batch": float(hits),
    }


def save(folder: pathlib.Path, model: DualEncoder, tokenizer: bytes, provenance: dict) -> None:
    """Writes the checkpoint, the tokenizer and where they come from."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, Any] = {
        key: value.astype(np.float16) for key, value in to_big_vision(parameters_of(model), TINY)
    }
    np.savez(folder / "checkpoint.npz", **arrays)
    (folder / "tokenizer.model").write_bytes(tokenizer)
    digest = hashlib.sha256((folder / "checkpoint.npz").read_bytes()).hexdigest()
    text = json.dumps({**provenance, "sha256": digest}, indent=2)
    (folder / "provenance.json").write_text(text + "\n")


def main(argv: list[str]) -> None:
    """Trains both phases and saves after each."""
    del argv
    start = time.time()
    vocabulary = train_tokenizer(_SEED.value)
    tokenizer = Tokenizer(vocabulary, TINY_LENGTH)
    model = make_model(_SEED.value, 2 * PHASES[0].pairs)
    done = []
    for phase in PHASES:
        done.append(train_phase(model, tokenizer, phase.scaled(_SCALE.value), _SEED.value))
        provenance = {
            "command": " ".join(["python", *sys.argv]),
            "seed": _SEED.value,
            "phases": done,
            "seconds": round(time.time() - start),
            "jax": jax.__version__,
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        }
        save(pathlib.Path(_OUTPUT.value), model, vocabulary, provenance)


if __name__ == "__main__":
    app.run(main)
