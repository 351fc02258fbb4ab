"""Moved to ilias_jax.search.ranking."""

from ilias_jax.search.ranking import (
    FileRecord,
    check_ranking,
    trace,
)
from ilias_jax.search.ranking import Provenance as Lineage
from ilias_jax.search.ranking import find_embeddings as find_files
from ilias_jax.search.ranking import read_provenance as read_lineage

__all__ = ["FileRecord", "Lineage", "check_ranking", "find_files", "read_lineage", "trace"]
