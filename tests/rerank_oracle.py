"""Adapter and expansion by their definition, one vector at a time, in float64; and random data."""

import numpy as np
from etils import epath

from ilias_jax.embeddings.file import Embeddings, write
from ilias_jax.embeddings.files import EmbeddingFiles
from ilias_jax.search.adapter import Adapter


def unit(rows: np.ndarray) -> np.ndarray:
    """Rows divided by their L2 norm."""
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def random_unit(seed: int, shape: tuple[int, int], dtype=np.float32) -> np.ndarray:
    """Unit rows."""
    return unit(np.random.default_rng(seed).normal(size=shape)).astype(dtype)


def files_of(folder, vectors: np.ndarray, sizes: tuple[int, ...]) -> EmbeddingFiles:
    """Embedding files of these sizes."""
    paths, start = [], 0
    for i, size in enumerate(sizes):
        part = vectors[start : start + size]
        part = part if size else np.zeros((0, 0), vectors.dtype)
        ids = tuple(f"{i}/{j}" for j in range(size))
        paths.append(epath.Path(folder) / f"{i}.safetensors")
        write(paths[-1], Embeddings(ids, part, np.arange(size), {"n": i}))
        start += size
    return EmbeddingFiles(paths)


def random_adapter(dim: int = 12, input_dim: int = 20, seed: int = 0) -> Adapter:
    """An adapter with a bias that matters."""
    rng = np.random.default_rng(seed)
    weight = rng.normal(size=(dim, input_dim)).astype(np.float32)
    return Adapter(weight, rng.normal(size=dim).astype(np.float32), {"made": "by hand"})


def adapted(adapter: Adapter, rows: np.ndarray) -> np.ndarray:
    """Rows after the adapter, [N, d]."""
    return unit(rows.astype(np.float64) @ adapter.weight.astype(np.float64).T + adapter.bias)


def ranked(queries: np.ndarray, database: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scores [Q, N], falling, and indices, lower first among equals."""
    scores = queries.astype(np.float64) @ database.astype(np.float64).T
    order = np.argsort(-scores, axis=1, kind="stable")
    return np.take_along_axis(scores, order, 1), order


def mean_of(own: np.ndarray, neighbours: np.ndarray, scores: np.ndarray, alpha: float):
    """The mean of one vector [D] and its neighbours [n, D], of unit length."""
    total = own.astype(np.float64)
    for neighbour, score in zip(neighbours.astype(np.float64), scores, strict=True):
        weight = 1.0 if alpha == 0 else max(score, 0.0) ** alpha
        total = total + weight * neighbour
    return total / np.linalg.norm(total)


def expanded_by_toolkit(adapter, queries: np.ndarray, database: np.ndarray, count: int):
    """Queries [Q, d] after the official toolkit's expansion, of vectors that are not adapted yet."""
    queries, ready = adapted(adapter, queries), adapted(adapter, database)
    scores, order = ranked(queries, ready)
    found = []
    for query, row, score in zip(queries, order, scores, strict=True):
        weighted = score[:count, None] * database[row[:count]].astype(np.float64)
        mean = np.mean([query, *adapted(adapter, weighted)], axis=0)
        found.append(mean / np.linalg.norm(mean))
    return np.stack(found), ready


def expanded(queries: np.ndarray, database: np.ndarray, count: int, alpha: float) -> np.ndarray:
    """Queries after expansion, [Q, D]."""
    scores, order = ranked(queries, database)
    return np.stack(
        [
            mean_of(query, database[row[:count]], score[:count], alpha)
            for query, row, score in zip(queries, order, scores, strict=True)
        ]
    )
