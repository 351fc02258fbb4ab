"""Embeds texts, of which there are few: all tokens at once, no shards."""

from collections.abc import Sequence

import numpy as np
from jax.sharding import Mesh

from ilias_jax.batching import batch_rows
from ilias_jax.embed.embedder import Embedder
from ilias_jax.embed.rows import collect
from ilias_jax.model import Parameters, TextFunction


def embed_tokens(
    forward: TextFunction,
    parameters: Parameters,
    mesh: Mesh,
    batch_size_per_device: int,
    tokens: np.ndarray,
    ids: Sequence[str],
) -> np.ndarray:
    """Embeds tokenized texts.

    Args:
        forward: of the text tower.
        parameters: already on the mesh.
        mesh: of the devices.
        batch_size_per_device: texts on a device at a time.
        tokens: [N, L] int32.
        ids: of the N texts, for messages.

    Returns:
        [N, D] float32, L2-normalised.

    Raises:
        UserError: a vector is not finite.
    """
    embedder = Embedder(forward, parameters, mesh, batch_size_per_device)
    results = embedder.run(batch_rows(tokens, embedder.batch_size))
    return collect(results, ids, "text queries")
