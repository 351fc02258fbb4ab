"""The whole story: dataset, embeddings, rankings, scores, report."""

import dataclasses

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils

from ilias_jax import manifest, preflight
from ilias_jax.config import BenchmarkConfig
from ilias_jax.embeddings import EmbeddingFiles, read_ids
from ilias_jax.errors import UserError
from ilias_jax.extraction import EmbeddedDataset, embed_dataset
from ilias_jax.gallery import make_gallery
from ilias_jax.ground_truth import GroundTruth, read_ground_truth
from ilias_jax.lineage import trace
from ilias_jax.mesh import make_mesh
from ilias_jax.metrics import Metrics, evaluate
from ilias_jax.model import Model
from ilias_jax.ranking import Ranking
from ilias_jax.report import write_report
from ilias_jax.search.exact import ExactSearch
from ilias_jax.search.scann import ScannSearch
from ilias_jax.timings import Timings
from ilias_jax.towers.load import load_model


def run(
    config: BenchmarkConfig, workdir: epath.Path, model: Model | None = None
) -> dict[str, object] | None:
    """Runs the benchmark; what an earlier run has embedded is not embedded again.

    Args:
        config: of the run.
        workdir: receives `embeddings/`, `rankings/` and `report/`.
        model: the user's own; by default the one that `config.model` names.

    Returns:
        The content of `report/report.json`; None in all processes but the first.

    Raises:
        UserError: an input is missing or wrong; before the first compilation where possible.
    """
    timings = Timings()
    preflight.check_workdir(workdir)
    preflight.check_inputs(config, needs_model=model is None)
    mesh = make_mesh(config.mesh.model_partitions)
    if preflight.will_generate(config.dataset) and jax.process_index() == 0:
        preflight.generate(config.dataset, timings)
    _wait_for_all("world")
    dataset = preflight.open_dataset(config.dataset)
    dataset.check()
    truth = read_ground_truth(dataset.data_dir)
    preflight.check_core(dataset, truth)
    model = model or load_model(config.model)
    embedded = embed_dataset(dataset, model, mesh, config, workdir / "embeddings", timings)
    _wait_for_all("embeddings")
    if jax.process_index() != 0:
        return None
    num_database = count_database(embedded, truth, dataset.selected)
    rankings, search_facts = search(config, mesh, embedded, workdir / "rankings", timings)
    results = score(config, rankings, truth, num_database, timings)
    with timings.stage("pictures"):
        gallery = make_gallery(results, rankings, truth, dataset, embedded, config.report)
    facts = manifest.describe_dataset(config.dataset, truth, embedded, num_database)
    document = {
        "schema": 1,
        "dataset": facts,
        "rejected": embedded.database.rejected(),
        "model": manifest.describe_model(model, embedded),
        "results": {name: metrics.to_dict() for name, metrics in results.items()},
        "search": search_facts,
        "timings": timings.to_dict(),
        "manifest": manifest.make_manifest(dataclasses.asdict(config), facts),
    }
    write_report(workdir / "report", document, gallery)
    return document


def _wait_for_all(name: str) -> None:
    """Waits until every process is here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def count_database(
    embedded: EmbeddedDataset, truth: GroundTruth, selected: frozenset[str] | None
) -> int:
    """N, the number of database rows, after a check that they are the rows they should be.

    Args:
        embedded: what will be searched.
        truth: whose positives are the rows 0..P-1.
        selected: distractor ids of the subset, None for all.

    Raises:
        UserError: queries or positives are not the ground truth's, an id comes twice, a listed
            distractor is in no shard, or there is no distractor at all.
    """
    missing = set(selected or ())
    if missing:
        missing -= {name for name, _ in embedded.database.rejected()}
        for path in embedded.images["distractor"].paths:
            missing.difference_update(read_ids(path))
    images, texts = embedded.images, embedded.texts
    problems = {
        "the embedded image queries are not the ground truth's": (
            images["image_query"].ids() != list(truth.image_query_ids)
        ),
        "the embedded positives are not the ground truth's": (
            images["positive"].ids() != list(truth.positive_ids)
        ),
        "the embedded text queries are not the ground truth's": (
            texts is not None and texts.ids() != list(truth.text_query_ids)
        ),
        "database ids come twice": embedded.database.num_repeated() > 0,
        f"{len(missing):,} of the subset's distractors are in no shard": bool(missing),
        "no distractor was embedded": images["distractor"].num_rows() == 0,
    }
    found = [problem for problem, there in problems.items() if there]
    if found:
        raise UserError("; ".join(found) + "; do the shards fit image_ids/?")
    return embedded.database.num_rows()


def search(
    config: BenchmarkConfig,
    mesh: jax.sharding.Mesh,
    embedded: EmbeddedDataset,
    folder: epath.Path,
    timings: Timings,
) -> tuple[dict[str, Ranking], dict[str, object]]:
    """Ranks the database for image and for text queries and keeps the rankings in `folder`.

    Returns:
        Rankings of the configured backend by section, and what the report says of the search: the
        configuration, what the index really was, and ANN recall@k of ScaNN against exact search
        by section where the configuration asks for it.
    """
    backends: dict[str, ExactSearch | ScannSearch] = {
        "exact": ExactSearch(mesh, config.search.block_rows),
        "scann": ScannSearch(config.search.scann),
    }
    chosen = config.search.backend
    names = list(backends) if config.search.measure_ann_recall else [chosen]
    indexes = {}
    for name in names:
        with timings.stage(f"open_{name}") as timing:
            indexes[name] = backends[name].open(embedded.database, config.search.k)
            timing.items += embedded.database.num_rows()
    queries: dict[str, EmbeddingFiles | None] = {
        "image_to_image": embedded.images["image_query"],
        "text_to_image": embedded.texts,
    }
    rankings, recalls = {}, {}
    for section, files in queries.items():
        if files is None:
            continue
        ids, vectors, found = tuple(files.ids()), files.vectors(), {}
        for name in names:
            with timings.stage(f"search_{section}_{name}") as timing:
                scores, rows = indexes[name].search(vectors)
                found[name] = Ranking(ids, rows, scores)
                timing.items += len(ids)
        rankings[section] = found[chosen]
        found[chosen].save(folder / f"{section}.npz", _origin(embedded, section))
        if config.search.measure_ann_recall:
            recalls[section] = ann_recall(found["exact"].indices, found["scann"].indices)
    facts = {
        **dataclasses.asdict(config.search),
        "built": {name: index.facts() for name, index in indexes.items() if index.facts()},
        "ann_recall": recalls or None,
    }
    return rankings, facts


def _origin(embedded: EmbeddedDataset, section: str) -> str:
    """The note in a ranking's file that says which embeddings it ranks."""
    queries = embedded.texts if section == "text_to_image" else embedded.images["image_query"]
    assert queries is not None
    return trace(queries, embedded.images["positive"], embedded.images["distractor"]).to_text()


def score(
    config: BenchmarkConfig,
    rankings: dict[str, Ranking],
    truth: GroundTruth,
    num_database: int,
    timings: Timings,
) -> dict[str, Metrics]:
    """Scores every ranking against the labels, which enter here and nowhere earlier."""
    results = {}
    for name, ranking in rankings.items():
        with timings.stage(f"metrics_{name}") as timing:
            settings = dataclasses.asdict(config.metrics)
            results[name] = evaluate(ranking, truth, config.search.k, num_database, **settings)
            timing.items += len(ranking.query_ids)
    return results


def ann_recall(exact: np.ndarray, approximate: np.ndarray) -> float:
    """ANN recall@k: mean share of the exact lists [Q, K] that the approximate lists [Q, K] hold."""
    shares = [np.isin(a, b).mean() for a, b in zip(exact, approximate, strict=True)]
    return float(np.mean(shares))
