"""Embeddings: their files, several of them as one sequence, and the extraction that makes them."""

from ilias_jax.embeddings.file import (
    Embeddings,
    Fingerprint,
    canonical_json,
    read,
    read_header,
    read_ids,
    read_numbers,
    short_hash,
    write,
)
from ilias_jax.embeddings.files import EmbeddingFiles, check_lengths, check_models

__all__ = [
    "EmbeddingFiles",
    "Embeddings",
    "Fingerprint",
    "canonical_json",
    "check_lengths",
    "check_models",
    "read",
    "read_header",
    "read_ids",
    "read_numbers",
    "short_hash",
    "write",
]
