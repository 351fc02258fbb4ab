"""Lists of vectors that are re-ranked; numpy only, as the references' script reads it."""

import dataclasses
import pathlib

import numpy as np

FILE = pathlib.Path(__file__).parent / "data" / "rerank" / "lists.npz"
DIM, NUM_QUERIES = 24, 3


@dataclasses.dataclass(frozen=True)
class Case:
    """Lists of `length` images of a database of twice as many.

    `spread` is how far images lie from the centre of their cluster; None for no clusters.
    """

    name: str
    length: int
    spread: float | None


CASES = (Case("random", 60, None), Case("clusters", 60, 0.5), Case("tight", 90, 0.15))


@dataclasses.dataclass(frozen=True, eq=False)
class Lists:
    """Queries [Q, D], images [U, D], both L2-normalised, and indices and similarities [Q, M]."""

    queries: np.ndarray
    images: np.ndarray
    indices: np.ndarray
    similarities: np.ndarray


def draw(case: Case) -> Lists:
    """The lists that exact search would give."""
    rng = np.random.default_rng([case.length, int(100 * (case.spread or 0))])
    vectors = rng.standard_normal((NUM_QUERIES + 2 * case.length, DIM))
    if case.spread is not None:
        centres = rng.standard_normal((8, DIM))
        vectors = centres[np.arange(len(vectors)) % 8] + case.spread * vectors
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    queries, images = vectors[:NUM_QUERIES], vectors[NUM_QUERIES:]
    products = queries @ images.T
    indices = np.argsort(-products, axis=1, kind="stable")[:, : case.length]
    return Lists(queries, images, indices, np.take_along_axis(products, indices, axis=1))
