"""Embedding: batches through a model on the mesh, one file a shard, finished shards skipped."""

from ilias_jax.embed.embedder import Embedder, place_parameters
from ilias_jax.embed.rows import collect
from ilias_jax.embed.shards import Named, ShardJob, embed_shards, is_done
from ilias_jax.embed.texts import embed_tokens

__all__ = [
    "Embedder",
    "Named",
    "ShardJob",
    "collect",
    "embed_shards",
    "embed_tokens",
    "is_done",
    "place_parameters",
]
