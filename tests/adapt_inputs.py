"""Embeddings, classes, first weights and batches from a seed, in plain numpy.

Shared by `adapt_train_test.py` and `tests/reference/make_adapt_values.py`, which trains in PyTorch on the
very same arrays.
"""

import dataclasses

import numpy as np

NUM_ROWS, INPUT_DIM, DIM, NUM_CLASSES, BATCH_SIZE = 1650, 48, 32, 40, 64
EPOCHS = 8  # of 25 whole batches: 200 steps
SCALE = 16.0


@dataclasses.dataclass(frozen=True)
class Case:
    """One training run.

    Attributes:
        learning_rate: of Adam.
        weight_decay: so large in one case that it matters where it enters.
    """

    learning_rate: float
    weight_decay: float


CASES = {"published": Case(1e-3, 1e-6), "strong_decay": Case(1e-2, 1e-2)}


def embeddings() -> tuple[np.ndarray, np.ndarray]:
    """Unit rows [N, D] float16 around a centre of their class, and classes [N] int32."""
    rng = np.random.default_rng(11)
    classes = rng.integers(0, NUM_CLASSES, NUM_ROWS).astype(np.int32)
    centres = rng.normal(size=(NUM_CLASSES, INPUT_DIM))
    rows = centres[classes] + 2 * rng.normal(size=(NUM_ROWS, INPUT_DIM))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16), classes


def layers() -> dict[str, np.ndarray]:
    """Weight [d, D], bias [d] and classifier [C, d], float32."""
    rng = np.random.default_rng(12)
    return {
        "weight": rng.uniform(-0.27, 0.27, (DIM, INPUT_DIM)).astype(np.float32),
        "bias": np.zeros(DIM, np.float32),
        "classifier": rng.uniform(-0.18, 0.18, (NUM_CLASSES, DIM)).astype(np.float32),
    }


def order() -> np.ndarray:
    """[epochs, S, B] int32, rows of every batch; the last 50 rows of each epoch are left out."""
    rng = np.random.default_rng(13)
    steps = NUM_ROWS // BATCH_SIZE
    epochs = [rng.permutation(NUM_ROWS)[: steps * BATCH_SIZE] for _ in range(EPOCHS)]
    return np.stack(epochs).reshape(EPOCHS, steps, BATCH_SIZE).astype(np.int32)
