"""The whole story: dataset, embeddings, rankings, scores, report."""

import dataclasses
import logging

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils

from ilias_jax import manifest, preflight
from ilias_jax.config import BenchmarkConfig
from ilias_jax.embeddings import EmbeddingFiles
from ilias_jax.errors import UserError
from ilias_jax.extraction import EmbeddedDataset, embed_dataset
from ilias_jax.gallery import make_gallery
from ilias_jax.ground_truth import GroundTruth, read_ground_truth
from ilias_jax.mesh import make_mesh
from ilias_jax.metrics import evaluate
from ilias_jax.model import Model
from ilias_jax.ranking import Ranking
from ilias_jax.report import GalleryEntry, write_report
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
    model = model or load_model(config.model)
    embedded = embed_dataset(dataset, model, mesh, config, workdir / "embeddings", timings)
    _wait_for_all("embeddings")
    if jax.process_index() != 0:
        return None
    num_database = check_ids(embedded, truth)
    rankings, recalls = search(config, mesh, embedded, workdir / "rankings", timings)
    results, gallery = {}, list[GalleryEntry]()
    for section, ranking in rankings.items():
        with timings.stage(f"metrics_{section}") as timing:
            settings = dataclasses.asdict(config.metrics)
            results[section] = evaluate(ranking, truth, config.search.k, num_database, **settings)
            timing.items += len(ranking.query_ids)
        with timings.stage("pictures"):
            gallery += make_gallery(
                section,
                results[section],
                ranking,
                truth,
                dataset,
                embedded,
                config.report.gallery_queries,
                config.report.gallery_results,
            )
    document = {
        "schema": 1,
        "dataset": describe_dataset(config, truth, embedded, num_database),
        "model": describe_model(model, embedded),
        "results": {section: metrics.to_dict() for section, metrics in results.items()},
        "search": {**dataclasses.asdict(config.search), "ann_recall": recalls or None},
        "timings": timings.to_dict(),
    }
    counts = {key: value for key, value in document["dataset"].items() if key.startswith("num_")}
    document["manifest"] = manifest.make_manifest(dataclasses.asdict(config), counts)
    write_report(workdir / "report", document, gallery)
    return document


def _wait_for_all(name: str) -> None:
    """Waits until every process is here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def check_ids(embedded: EmbeddedDataset, truth: GroundTruth) -> int:
    """Checks the embedded ids against the ground truth's.

    Returns:
        N, the number of database rows.

    Raises:
        UserError: queries or positives are missing, extra or in another order, or a database id
            comes twice.
    """
    for what, files, expected in (
        ("image queries", embedded.images["image_query"], truth.image_query_ids),
        ("positives", embedded.images["positive"], truth.positive_ids),
        ("text queries", embedded.texts, truth.text_query_ids),
    ):
        found = files.ids() if files else list(expected)
        missing, extra = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
        if missing or extra or found != list(expected):
            raise UserError(
                f"the shards' {what} are not those of image_ids/: {len(missing)} missing "
                f"{missing[:3]}, {len(extra)} extra {extra[:3]}, or another order"
            )
    database = embedded.database.ids()
    if len(set(database)) != len(database):
        raise UserError(f"{len(database) - len(set(database))} database ids come twice")
    return len(database)


def search(
    config: BenchmarkConfig,
    mesh: jax.sharding.Mesh,
    embedded: EmbeddedDataset,
    folder: epath.Path,
    timings: Timings,
) -> tuple[dict[str, Ranking], dict[str, float]]:
    """Ranks the database for image and for text queries and keeps the rankings in `folder`.

    Returns:
        Rankings of the configured backend by section, and ANN recall@k of ScaNN against exact
        search by section where the configuration asks for it.
    """
    backends: dict[str, ExactSearch | ScannSearch] = {
        "exact": ExactSearch(mesh, config.search.block_rows),
        "scann": ScannSearch(**dataclasses.asdict(config.search.scann)),
    }
    chosen = config.search.backend
    names = list(backends) if config.search.measure_ann_recall else [chosen]
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
                scores, rows = backends[name].search(vectors, embedded.database, config.search.k)
                found[name] = Ranking(ids, rows, scores)
                timing.items += len(ids)
        rankings[section] = found[chosen]
        found[chosen].save(folder / f"{section}.npz")
        if config.search.measure_ann_recall:
            recalls[section] = ann_recall(found["exact"].indices, found["scann"].indices)
        logging.info("searched %d queries, %s", len(ids), section)
    return rankings, recalls


def ann_recall(exact: np.ndarray, approximate: np.ndarray) -> float:
    """ANN recall@k: mean share of the exact lists [Q, K] that the approximate lists [Q, K] hold."""
    shares = [np.isin(a, b).mean() for a, b in zip(exact, approximate, strict=True)]
    return float(np.mean(shares))


def describe_dataset(
    config: BenchmarkConfig, truth: GroundTruth, embedded: EmbeddedDataset, num_database: int
) -> dict[str, object]:
    """The report's dataset section: counts of what was searched, not of what was meant to be."""
    rejected = embedded.database.rejected()
    return {
        "name": config.dataset.name,
        "subset": config.dataset.subset,
        "num_image_queries": len(truth.image_query_ids),
        "num_text_queries": len(truth.text_query_ids),
        "num_positives": len(truth.positive_ids),
        "num_distractors": num_database - len(truth.positive_ids),
        "num_rejected": len(rejected),
        "rejected": [list(pair) for pair in rejected[:20]],
    }


def describe_model(model: Model, embedded: EmbeddedDataset) -> dict[str, object]:
    """The report's model section."""
    leaves = jax.tree.leaves(model.parameters)
    return {
        "name": model.name,
        "checkpoint": model.fingerprint.get("checkpoint"),
        "sha256": model.fingerprint.get("sha256"),
        **{key: value for key, value in model.fingerprint.items() if key != "name"},
        "resolution": model.preprocessing.resolution,
        "patch_size": model.preprocessing.patch_size,
        "embedding_dim": next(iter(embedded.images["image_query"])).vectors.shape[1],
        "num_parameters": sum(int(np.prod(leaf.shape)) for leaf in leaves),
    }
