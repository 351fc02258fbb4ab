"""Embedding files: one a shard, self-describing, whole or absent; and several as one sequence."""

from ilias_jax.embeddings.checks import check_lengths, check_models
from ilias_jax.embeddings.file import (
    Embeddings,
    canonical_json,
    read,
    read_fingerprint,
    read_ids,
    read_numbers,
    read_rejected,
    short_hash,
    write,
)
from ilias_jax.embeddings.header import Fingerprint
from ilias_jax.embeddings.sequence import EmbeddingFiles

__all__ = [
    "EmbeddingFiles",
    "Embeddings",
    "Fingerprint",
    "canonical_json",
    "check_lengths",
    "check_models",
    "read",
    "read_fingerprint",
    "read_ids",
    "read_numbers",
    "read_rejected",
    "short_hash",
    "write",
]
