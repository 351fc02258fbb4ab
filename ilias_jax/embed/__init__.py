"""Moved to ilias_jax.embeddings."""

from ilias_jax.embeddings.embedder import Embedder, collect, embed_tokens, place_parameters
from ilias_jax.embeddings.shards import Named, ShardJob, embed_shards, is_done

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
