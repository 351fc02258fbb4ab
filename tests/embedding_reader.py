"""Reads an embedding file whole, and writes it with other vectors."""

import json
from collections.abc import Callable

import numpy as np
import safetensors
import safetensors.numpy
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


def alter(path: epath.Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Writes a file again with other vectors and their checksums; no check of `file` is made."""
    with safetensors.safe_open(str(path), "np") as opened:
        header = json.loads(opened.metadata()[file.KEY])
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    vectors = tensors["vectors"] = np.ascontiguousarray(change(tensors["vectors"]))
    header["checksums"] = file._checksums(vectors.reshape(-1).view(np.uint8).data)
    text = file.canonical_json(header)
    path.write_bytes(safetensors.numpy.save(tensors, {file.KEY: text}))
