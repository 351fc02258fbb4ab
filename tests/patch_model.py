"""A model whose tokens are random projections of patches, quick to compile; and runs with it."""

import pathlib
import time
from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from ilias_jax import benchmark
from ilias_jax.config import BenchmarkConfig, parse
from ilias_jax.dataset.reader import IliasDataset
from ilias_jax.model import Model, Preprocessing

T = TypeVar("T")
PATCH, RESOLUTION, DIM = 16, 64, 24
_RNG = np.random.default_rng(5)
KERNEL = (_RNG.standard_normal((PATCH**2 * 3, DIM)) / PATCH).astype(np.float32)


def embed_patches(kernel: jax.Array, pixels: jax.Array, grid: jax.Array) -> jax.Array:
    del grid
    return jnp.tanh(jnp.matmul(pixels, kernel, precision="highest"))


def embed_images(kernel: jax.Array, pixels: jax.Array, grid: jax.Array) -> jax.Array:
    """The mean of the real tokens."""
    tokens = embed_patches(kernel, pixels, grid)
    real = jnp.arange(pixels.shape[1])[None, :] < grid[:, :1] * grid[:, 1:]
    return jnp.where(real[..., None], tokens, 0).sum(axis=1)


def model(kernel: np.ndarray = KERNEL) -> Model:
    return Model(
        name="patches",
        parameters=kernel,
        preprocessing=Preprocessing(RESOLUTION, PATCH),
        embed_images=embed_images,
        embed_texts=None,
        tokenize=None,
        fingerprint={"kernel": float(kernel.sum())},
        embed_patches=embed_patches,
    )


def config(data: pathlib.Path, **rerank) -> BenchmarkConfig:
    return parse(
        {
            "dataset": {"data_dir": str(data), "name": "small"},
            "model": {},
            "embed": {"batch_size_per_device": 4, "num_buckets": 2, "canvas": 0},
            "search": {"k": 30},
            "rerank": {"method": "chamfer", "shortlist": 10, **rerank},
            "metrics": {"num_resamples": 100},
            "report": {"gallery_queries": 1, "gallery_results": 2},
        }
    )


def run(data: pathlib.Path, work: pathlib.Path, **rerank) -> dict:
    """The report's document of a run that re-ranks."""
    document = benchmark.run(config(data, **rerank), epath.Path(work), model())
    assert document is not None
    return document


def open_dataset(data: pathlib.Path) -> IliasDataset:
    return IliasDataset(epath.Path(data))


def database_ids(data: pathlib.Path) -> list[str]:
    """Ids of positives, then distractors, as the database has them."""
    dataset = open_dataset(data)
    return [*dataset.ids("positive"), *dataset.ids("distractor")]


def slowly(function: Callable[..., T], seconds: float) -> Callable[..., T]:
    """The function, which takes so much longer."""

    def called(*arguments: object) -> T:
        time.sleep(seconds)
        return function(*arguments)

    return called
