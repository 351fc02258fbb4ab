"""The search of the benchmark: which queries search which database, with which backends.

In this order: adapter, search, query expansion, search again.
"""

import dataclasses
from collections.abc import Callable, Iterator

import jax
import numpy as np
from etils import epath

from ilias_jax.config import BenchmarkConfig, RerankConfig
from ilias_jax.embeddings.extract import EmbeddedDataset
from ilias_jax.embeddings.sources import Checked, Mapped, VectorSource
from ilias_jax.errors import UserError
from ilias_jax.files import sha256
from ilias_jax.model import Model
from ilias_jax.models.registry.entry import ResolvedModel
from ilias_jax.preprocessing.batching import bucket_shapes
from ilias_jax.profiling import Timings
from ilias_jax.search.adapter import Adapter
from ilias_jax.search.backends import BACKENDS, Index, backends_of, shares_search
from ilias_jax.search.ranking import Provenance, Ranking, trace, warn_of_cut

_OTHER_EXPANSION = (
    "the official toolkit weights neighbours before the adapter, whose norm nearly cancels the "
    "weights; rerank.query_expansion_weights=before_adapter gives its numbers"
)


@dataclasses.dataclass(frozen=True, eq=False)
class Section:
    """One kind of query and its database.

    Attributes:
        name: "image_to_image" or "text_to_image".
        query_ids, queries: Q ids and [Q, D] float16 or float32, adapted if the database is.
        database: what they search; the same object for two sections that share it.
        origin: text that no other database has: its embedding files, and the adapter if any.
        provenance: the embedding files of queries and database.
    """

    name: str
    query_ids: tuple[str, ...]
    queries: np.ndarray
    database: VectorSource
    origin: str
    provenance: Provenance


@dataclasses.dataclass(frozen=True)
class SearchResult:
    """What was found.

    Attributes:
        rankings: by section, of the configured backend.
        compared: likewise of the other one; empty unless ANN recall is measured.
        facts: for the report: the configuration, what each index really was, ANN recall@k of the
            approximate backend against exact search, and adapter and expansion if any.
    """

    rankings: dict[str, Ranking]
    compared: dict[str, Ranking]
    facts: dict[str, object]


def search(
    config: BenchmarkConfig,
    mesh: jax.sharding.Mesh,
    embedded: EmbeddedDataset,
    adapter: Adapter | None,
    workdir: epath.Path,
    timings: Timings,
) -> SearchResult:
    """Searches the database for image and for text queries.

    Rankings are kept in `rankings/` of the workdir, an index that can be kept in `index/`.

    Raises:
        UserError: a row is not finite or not L2-normalised; or as the backend's `open`.
    """
    result = SearchResult({}, {}, {})
    recalls: dict[str, float] = {}
    built: dict[str, dict[str, dict[str, int]]] = {}
    database: VectorSource | None = None
    indexes: dict[str, Index] = {}
    warn_of_cut(config.search.k, embedded.database.num_rows())
    for section in sections(embedded, adapter):
        if section.database is not database:
            indexes = {}  # frees memory before the next ones take theirs
            database = section.database
            indexes = _open(config, mesh, section, workdir / "index", timings)
        found = {name: _rank(config, section, name, indexes[name], timings) for name in indexes}
        kept = result.rankings[section.name] = found.pop(config.search.backend)
        if jax.process_index() == 0:
            path = workdir / "rankings" / f"{section.name}.npz"
            kept.save(path, section.provenance.to_text())
        for name, other in found.items():
            result.compared[section.name] = other
            exact, approximate = (other, kept) if BACKENDS[name].is_exact else (kept, other)
            recalls[section.name] = ann_recall(exact.indices, approximate.indices)
        facts = {name: index.facts() for name, index in indexes.items()}
        built[section.name] = {name: values for name, values in facts.items() if values}
    # Without an adapter all sections share one database and its indexes.
    result.facts.update(
        dataclasses.asdict(config.search),
        built=built if adapter else built[section.name],
        ann_recall=recalls or None,
        **_describe(config, adapter),
    )
    return result


def sections(embedded: EmbeddedDataset, adapter: Adapter | None) -> Iterator[Section]:
    """Yields image-to-image, then text-to-image if there are texts; errors are those of `Checked`.

    The adapter was trained on images alone and moves them to a space of their own, so the protocol
    adapts image queries and their database, and lets texts search the database as it is.
    """
    kinds = {"image_to_image": embedded.images["image_query"], "text_to_image": embedded.texts}
    for name, files in kinds.items():
        if files is None:
            continue
        database: VectorSource = embedded.database
        queries, ids = Checked(files).vectors(), tuple(files.ids())
        provenance = trace(files, embedded.images["positive"], embedded.images["distractor"])
        origin = provenance.database_text()
        if adapter is not None and name == "image_to_image":
            queries, database = adapter.apply(queries), Mapped(Checked(database), adapter.apply)
            origin = f"{origin} adapter {adapter.digest()}"
        yield Section(name, ids, queries, database, origin, provenance)


def _open(
    config: BenchmarkConfig,
    mesh: jax.sharding.Mesh,
    section: Section,
    folder: epath.Path,
    timings: Timings,
) -> dict[str, Index]:
    indexes = {}
    for name in backends_of(config.search):
        backend = BACKENDS[name].create(
            config.search,
            mesh=mesh,
            folder=folder / section.name,
            origin=section.origin,
            shared=shares_search(config.search),
            # What an adapter gives was checked when it was read.
            any_length=isinstance(section.database, Mapped),
        )
        with timings.stage(f"open_{name}") as timing:
            indexes[name] = backend.open(section.database, config.search.k)
            timing.items += section.database.num_rows()
    return indexes


def _rank(
    config: BenchmarkConfig, section: Section, name: str, index: Index, timings: Timings
) -> Ranking:
    queries, count = section.queries, config.rerank.query_expansion
    with timings.stage(f"search_{section.name}_{name}") as timing:
        scores, rows = index.search(queries)
        timing.items += len(queries)
    if count:
        with timings.stage(f"expand_{section.name}_{name}") as timing:
            first = scores[:, :count], rows[:, :count], section.database
            expanded = _expand(config.rerank, queries, *first)
            scores, rows = index.search(expanded)
            timing.items += len(queries)
    return Ranking(section.query_ids, rows, scores)


def _expand(
    config: RerankConfig,
    queries: np.ndarray,
    scores: np.ndarray,
    indices: np.ndarray,
    database: VectorSource,
) -> np.ndarray:
    alpha = config.query_expansion_alpha
    if config.query_expansion_weights == "after_adapter" or not isinstance(database, Mapped):
        return expand_queries(queries, scores, indices, database.rows, alpha)
    stored, adapt = database.source.rows, database.apply
    return expand_weighted_first(queries, scores, indices, stored, adapt, alpha)


def neighbour_weights(scores: np.ndarray, alpha: float) -> np.ndarray:
    """Weights of neighbours, float32: their scores to the power of alpha (Radenovic et al., 2018).

    A negative score has no real power, so its weight is 0. With alpha 0 every weight is 1 whatever
    the score, which is plain average query expansion.
    """
    return np.power(np.maximum(scores, 0, dtype=np.float32), np.float32(alpha))


def expand_queries(
    queries: np.ndarray,
    scores: np.ndarray,
    indices: np.ndarray,
    rows: Callable[[np.ndarray], np.ndarray],
    alpha: float,
) -> np.ndarray:
    """The mean of every query, of weight 1, and its weighted neighbours, L2-normalised.

    Query expansion (Chum et al., 2007). Sums are in float32 and in the order of the neighbours.

    Args:
        queries: [Q, D] float16 or float32 as they were searched, adapted if the database is.
        scores: [Q, n] float32 of the n neighbours of each.
        indices: [Q, n] their database indices.
        rows: gives the database's vectors [U, D] of indices [U]. Every neighbour is fetched once,
            so at most Q x n vectors are held.
        alpha: exponent of the scores; see `neighbour_weights`.

    Returns:
        [Q, D] float32; where the sum is zero the query as it is.
    """
    wanted, which = np.unique(indices, return_inverse=True)
    neighbours, weights = rows(wanted), neighbour_weights(scores, alpha)
    own = queries.astype(np.float32)
    total = own.copy()
    for column, weight in zip(which.reshape(indices.shape).T, weights.T, strict=True):
        total += weight[:, None] * neighbours[column].astype(np.float32)
    norm = np.linalg.norm(total, axis=1, keepdims=True)
    return np.where(norm > 0, total / np.where(norm > 0, norm, 1), own)


def expand_weighted_first(
    queries: np.ndarray,
    scores: np.ndarray,
    indices: np.ndarray,
    stored: Callable[[np.ndarray], np.ndarray],
    adapt: Callable[[np.ndarray], np.ndarray],
    alpha: float,
) -> np.ndarray:
    """As `expand_queries`, with weights as the official toolkit applies them: before the adapter.

    A neighbour x of score s adds `adapt(sign(s) |s|^alpha x)`. The adapter is a linear layer and an
    L2 norm, so that of the weight only its sign, and the bias beside it, are left.

    Args:
        queries, scores, indices: as there; the queries [Q, d] are adapted.
        stored: gives the database's vectors [U, D] of indices [U] as they are stored.
        adapt: [n, D] -> [n, d], L2-normalised.
        alpha: exponent of the scores.
    """
    wanted, which = np.unique(indices, return_inverse=True)
    neighbours = stored(wanted).astype(np.float32)
    weights = np.sign(scores) * np.abs(scores) ** np.float32(alpha)
    total = queries.astype(np.float32)
    for column, weight in zip(which.reshape(indices.shape).T, weights.T, strict=True):
        total += adapt(weight[:, None] * neighbours[column])
    return total / np.linalg.norm(total, axis=1, keepdims=True)


def ann_recall(exact: np.ndarray, approximate: np.ndarray) -> float:
    """ANN recall@k: mean share of the exact lists [Q, K] that the approximate lists [Q, K] hold."""
    shares = [np.isin(a, b).mean() for a, b in zip(exact, approximate, strict=True)]
    return float(np.mean(shares))


def _describe(config: BenchmarkConfig, adapter: Adapter | None) -> dict[str, object]:
    """What the report says of adapter and expansion; nothing of what is off."""
    facts: dict[str, object] = {}
    if adapter is not None:
        path = config.adapter.path
        facts |= {"adapter": path, "adapter_sha256": sha256(path), "adapter_dim": adapter.dim}
    if config.rerank.query_expansion:
        names = ("query_expansion", "query_expansion_alpha", "query_expansion_weights")
        facts |= {name: getattr(config.rerank, name) for name in names}
        if adapter is not None and config.rerank.query_expansion_weights == "after_adapter":
            facts["query_expansion_note"] = _OTHER_EXPANSION
    return facts


def check_adapter(adapter: Adapter, path: str, model: Model | ResolvedModel) -> None:
    """Raises UserError if an adapter, read from `path`, takes other embeddings than a model's."""
    dim = embedding_dim(model)
    if adapter.input_dim != dim:
        raise UserError(
            f"adapter.path: {path} takes embeddings of {adapter.input_dim} channels, and model "
            f"{model.name} gives {dim}; it belongs to another model"
        )


def embedding_dim(model: Model | ResolvedModel) -> int:
    """D, channels of an embedding, without loading or running a model."""
    if isinstance(model, ResolvedModel):
        return model.architecture.embedding_dim
    images = model.preprocessing
    shape = bucket_shapes(images, 1)[-1]
    pixels = jax.ShapeDtypeStruct((1, *shape, images.patch_size**2 * 3), np.float32)
    grid = jax.ShapeDtypeStruct((1, 2), np.int32)
    return jax.eval_shape(model.embed_images, model.parameters, pixels, grid).shape[1]
