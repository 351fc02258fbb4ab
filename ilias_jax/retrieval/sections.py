"""The sections of the benchmark: whose queries search which database."""

import dataclasses
from collections.abc import Iterator

import numpy as np

from ilias_jax.adapter import Adapter, file_sha256, read_adapter
from ilias_jax.config import AdapterConfig, RerankConfig
from ilias_jax.embeddings import EmbeddingFiles
from ilias_jax.extraction import EmbeddedDataset
from ilias_jax.lineage import trace
from ilias_jax.norms import Checked
from ilias_jax.sources import Mapped
from ilias_jax.vectors import VectorSource


@dataclasses.dataclass(frozen=True, eq=False)
class Section:
    """One kind of query and its database.

    Attributes:
        name: "image_to_image" or "text_to_image".
        query_ids: Q ids.
        query_files: where the queries come from.
        queries: [Q, D] float16 or float32, adapted if the database is.
        database: what they search; the same object for two sections that share it.
        origin: text that no other database has: its embedding files, and the adapter if any.
    """

    name: str
    query_ids: tuple[str, ...]
    query_files: EmbeddingFiles
    queries: np.ndarray
    database: VectorSource
    origin: str


def open_adapter(config: AdapterConfig) -> Adapter | None:
    """The configured adapter, None if there is none."""
    return read_adapter(config.path) if config.path else None


def sections(embedded: EmbeddedDataset, adapter: Adapter | None) -> Iterator[Section]:
    """Yields image-to-image, then text-to-image if there are texts.

    The adapter was trained on images alone and moves them to a space of their own, so the protocol
    adapts image queries and their database, and lets texts search the database as it is.

    Raises:
        UserError: a query is not finite or not L2-normalised; likewise a row of an adapted
            database when it is read.
    """
    images = embedded.images["image_query"]
    queries, database = Checked(images).vectors(), embedded.database
    lineage = trace(images, embedded.images["positive"], embedded.images["distractor"])
    origin = lineage.database_text()
    if adapter is None:
        yield Section("image_to_image", tuple(images.ids()), images, queries, database, origin)
    else:
        adapted = Mapped(Checked(database), adapter.apply)
        ids, adapted_queries = tuple(images.ids()), adapter.apply(queries)
        adapted_origin = f"{origin} adapter {adapter.digest()}"
        yield Section("image_to_image", ids, images, adapted_queries, adapted, adapted_origin)
    if embedded.texts is not None:
        texts = embedded.texts
        queries = Checked(texts).vectors()
        yield Section("text_to_image", tuple(texts.ids()), texts, queries, database, origin)


def describe(
    config: AdapterConfig, adapter: Adapter | None, rerank: RerankConfig
) -> dict[str, object]:
    """What the report says of adapter and averaging; nothing of what is off."""
    facts: dict[str, object] = {}
    if adapter is not None:
        facts["adapter"] = config.path
        facts["adapter_sha256"] = file_sha256(config.path)
        facts["adapter_dim"] = adapter.dim
    for name in ("database_averaging", "query_expansion"):
        if getattr(rerank, name):
            facts[name] = getattr(rerank, name)
            facts[f"{name}_alpha"] = getattr(rerank, f"{name}_alpha")
    return facts
