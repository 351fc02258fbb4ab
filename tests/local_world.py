"""Re-rankers of local descriptors from weights in a file, and descriptors that they stored."""

import dataclasses
import pathlib

import jax
import numpy as np
from local_pairs import Network, Pairs, padded

from ilias_jax.config import RerankConfig
from ilias_jax.mesh import make_mesh
from ilias_jax.rerank.descriptors import Descriptors
from ilias_jax.rerank.local import LocalMethod
from ilias_jax.rerank.reranker import RERANKERS


def write(folder: pathlib.Path, weights: dict[str, np.ndarray]) -> str:
    """A checkpoint that keeps its state under a key."""
    path = folder / "weights.npz"
    np.savez(path, **{f"state.{name}": array for name, array in weights.items()})
    return str(path)


def create(method: str, weights: str = "", devices=None, **options) -> LocalMethod:
    """A re-ranker on these devices."""
    config = RerankConfig(method=method, weights=weights, **options)
    return RERANKERS[method].create(config, make_mesh(devices=devices))


def of_network(network: Network, folder: pathlib.Path, pairs: Pairs, **options) -> LocalMethod:
    """A re-ranker of a network's drawn weights that pads as these pairs do."""
    counts = dict(zip(("query_descriptors", "database_descriptors"), pairs.padded, strict=True))
    return create(network.method, write(folder, network.weights()), **counts, **options)


def descriptors(values: list[np.ndarray], length: int) -> Descriptors:
    """Stored values of N images, each [n, d], padded."""
    found = padded(values, length)
    places = np.zeros((*found.shape[:2], 2), np.float32)
    counts = np.array([len(each) for each in values], np.int32)
    return Descriptors(found, places, places[..., 0], counts)


def stored(method: LocalMethod, values: list[np.ndarray], length: int) -> Descriptors:
    """Descriptors of a network [n, D] as the method keeps them; numbers as float32."""
    project = jax.jit(method.project)
    whole = np.asarray(project(method.parameters, np.concatenate(values)))
    if method.storage == "bits":
        whole = np.packbits(whole > 0, axis=-1)
    return descriptors(np.split(whole, np.cumsum([len(each) for each in values])[:-1]), length)


def score_all(method: LocalMethod, queries: Descriptors, images: Descriptors) -> np.ndarray:
    """[queries, images] scores of all pairs."""
    indices = np.tile(np.arange(len(images)), (len(queries), 1))
    return method.score(queries, images, indices, np.zeros(indices.shape, np.float32))


def score_pairs(method: LocalMethod, pairs: Pairs) -> np.ndarray:
    """[queries, images] scores from the networks' descriptors on."""
    sides = zip(pairs.draw(), pairs.padded, strict=True)
    return score_all(method, *(stored(method, values, length) for values, length in sides))


def as_float16(images: Descriptors) -> Descriptors:
    """The same as files keep them."""
    return dataclasses.replace(images, values=images.values.astype(np.float16))
