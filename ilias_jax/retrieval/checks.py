"""Adapter and averaging against the model and the dataset, before anything is embedded."""

import jax
import numpy as np

from ilias_jax.config import BenchmarkConfig, ModelConfig
from ilias_jax.dataset.reader import IliasDataset
from ilias_jax.errors import UserError
from ilias_jax.model import Model
from ilias_jax.rerank.database_averaging import check_memory
from ilias_jax.retrieval.sections import open_adapter
from ilias_jax.towers.variants import find_variant


def embedding_dim(config: ModelConfig, model: Model | None) -> int:
    """D, channels of an embedding, without loading or running a model.

    Args:
        config: names the model.
        model: the user's own, None for the named one.
    """
    if model is None:
        return find_variant(config.name).architecture.embedding_dim
    how = model.preprocessing
    pixels = jax.ShapeDtypeStruct((1, how.max_side**2, how.patch_size**2 * 3), np.float32)
    grid = jax.ShapeDtypeStruct((1, 2), np.int32)
    return jax.eval_shape(model.embed_images, model.parameters, pixels, grid).shape[1]


def check_adapter(config: BenchmarkConfig, model: Model | None) -> None:
    """Raises UserError if there is an adapter and it takes other embeddings than the model gives.

    Args:
        config: of the run.
        model: the user's own, None for the named one.
    """
    adapter = open_adapter(config.adapter)
    if adapter is None:
        return
    dim = embedding_dim(config.model, model)
    if adapter.input_dim != dim:
        name = config.model.name if model is None else model.name
        raise UserError(
            f"adapter.path: {config.adapter.path} takes embeddings of {adapter.input_dim} "
            f"channels, and model {name} gives {dim}; it belongs to another model"
        )


def check_averaging(config: BenchmarkConfig, model: Model, dataset: IliasDataset) -> None:
    """Raises UserError if the database is too large to be averaged in memory."""
    if not config.rerank.database_averaging:
        return
    num_distractors = sum(shard.num_records for shard in dataset.shards("distractor"))
    if dataset.selected is not None:
        num_distractors = len(dataset.selected)
    num_rows = num_distractors + sum(shard.num_records for shard in dataset.shards("positive"))
    dim, adapter = embedding_dim(config.model, model), open_adapter(config.adapter)
    dims = [dim if adapter is None else adapter.dim]
    if model.embed_texts is not None:
        dims.append(dim)  # texts search the database as it is
    check_memory(num_rows, max(dims), config.rerank.database_averaging_gib)
