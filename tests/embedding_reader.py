"""Reads an embedding file whole."""

from etils import epath

from ilias_jax.embeddings import file
from ilias_jax.embeddings.files import EmbeddingFiles


def read(path: epath.Path) -> file.Embeddings:
    """What `file.write` was given."""
    files, header = EmbeddingFiles([path]), file.read_header(path)
    numbers = file.read_numbers(path)
    return file.Embeddings(
        tuple(files.ids()), files.vectors(), numbers, header.fingerprint, header.rejected
    )
