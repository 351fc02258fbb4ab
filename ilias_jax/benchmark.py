"""The whole story: dataset, embeddings, rankings, scores, report."""

import dataclasses

import jax
from etils import epath
from jax.experimental import multihost_utils

from ilias_jax import manifest, preflight
from ilias_jax.config import BenchmarkConfig
from ilias_jax.database import count_database, describe_dataset
from ilias_jax.extraction import EmbeddedDataset, embed_dataset
from ilias_jax.gallery import make_gallery
from ilias_jax.ground_truth import GroundTruth, read_ground_truth
from ilias_jax.lineage import trace
from ilias_jax.mesh import make_mesh
from ilias_jax.metrics import Metrics, evaluate
from ilias_jax.model import Model
from ilias_jax.plugins.factory import build_model
from ilias_jax.published import read_published
from ilias_jax.ranking import Ranking
from ilias_jax.report import write_report
from ilias_jax.retrieval.checks import check_adapter, check_averaging
from ilias_jax.retrieval.engine import Engine
from ilias_jax.retrieval.sections import Section, describe, open_adapter, sections
from ilias_jax.search.sweep import ann_recall
from ilias_jax.standing import compare_with_published
from ilias_jax.timings import Timings
from ilias_jax.towers.load import load_model


def run(
    config: BenchmarkConfig, workdir: epath.Path, model: Model | None = None
) -> dict[str, object] | None:
    """Runs the benchmark; what an earlier run has embedded is not embedded again.

    Args:
        config: of the run.
        workdir: receives `embeddings/`, `index/`, `rankings/` and `report/`.
        model: the user's own; by default the one that `config.model` names.

    Returns:
        The content of `report/report.json`; None in all processes but the first.

    Raises:
        UserError: an input is missing or wrong; before the first compilation where possible.
    """
    timings = Timings()
    preflight.check_workdir(workdir)
    preflight.check_inputs(config, needs_model=model is None)
    if model is None and config.model.factory:
        model = build_model(config)
    check_adapter(config, model)
    mesh = make_mesh(config.mesh.model_partitions)
    if preflight.will_generate(config.dataset) and jax.process_index() == 0:
        preflight.generate(config.dataset, timings)
    _wait_for_all("world")
    dataset = preflight.open_dataset(config.dataset)
    dataset.check()
    truth = read_ground_truth(dataset.data_dir)
    preflight.check_core(dataset, truth)
    with timings.stage("check_distractors"):
        checked = preflight.check_distractors(dataset, config.dataset)
    model = model or load_model(config.model, config.views.max_scale)
    check_averaging(config, model, dataset)
    embedded = embed_dataset(dataset, model, mesh, config, workdir / "embeddings", timings)
    _wait_for_all("embeddings")
    is_first = jax.process_index() == 0
    if is_first:
        counts = count_database(embedded, truth, dataset, checked, config.dataset.allowed)
    elif not shares_search(config):
        return None
    found, others, search_facts = search(config, mesh, embedded, truth, workdir, timings)
    if not is_first:
        return None
    results = score(config, found, truth, counts.num_rows, timings)
    compared = score(config, others, truth, counts.num_rows, timings)
    search_facts["map_minus_exact"] = map_minus_exact(config.search.backend, results, compared)
    with timings.stage("pictures"):
        gallery = make_gallery(results, found, truth, dataset, embedded, config.report)
    facts = describe_dataset(config.dataset, truth, counts)
    described, values = manifest.describe_model(model, embedded), dataclasses.asdict(config)
    numbers = {name: metrics.to_dict() for name, metrics in results.items()}
    document = {
        "schema": 1,
        "dataset": facts,
        "rejected": embedded.database.rejected(),
        "rejected_at_conversion": checked.rejected,
        "model": described,
        "results": numbers,
        "objects": {name: list(path[:2]) for name, path in truth.objects().items()},
        "published": compare_with_published(read_published(), values, described, facts, numbers),
        "search": search_facts,
        "timings": timings.to_dict(),
        "manifest": manifest.make_manifest(values, facts),
    }
    write_report(workdir / "report", document, gallery)
    return document


def _wait_for_all(name: str) -> None:
    """Waits until every process is here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def shares_search(config: BenchmarkConfig) -> bool:
    """Whether all processes search; a ScaNN index is the first one's alone."""
    return config.search.backend == "exact" and not config.search.measure_ann_recall


def search(
    config: BenchmarkConfig,
    mesh: jax.sharding.Mesh,
    embedded: EmbeddedDataset,
    truth: GroundTruth,
    workdir: epath.Path,
    timings: Timings,
) -> tuple[dict[str, Ranking], dict[str, Ranking], dict[str, object]]:
    """Searches the database for image and for text queries.

    Rankings are kept in `rankings/`, a ScaNN index in `index/`.

    Returns:
        What was found by section; what the other backend found where the configuration asks to
        compare both; and what the report says of the search: the configuration, what the index
        really was, ANN recall@k of ScaNN against exact search and the sweep by section where they
        are asked for, and adapter, averaging and expansion if any.
    """
    adapter = open_adapter(config.adapter)
    engine = Engine(config, mesh, timings, workdir / "index", shares_search(config))
    kept: dict[str, Ranking] = {}
    others: dict[str, Ranking] = {}
    recalls, sweeps, built = {}, {}, {}
    for section in sections(embedded, adapter):
        rankings = engine.rank(section)
        kept[section.name] = rankings[config.search.backend]
        if jax.process_index() == 0:
            save(kept[section.name], section, embedded, workdir)
        built[section.name] = engine.built()
        if config.search.measure_ann_recall:
            exact, scann = rankings["exact"], rankings["scann"]
            recalls[section.name] = ann_recall(exact.indices, scann.indices)
            others[section.name] = scann if kept[section.name] is exact else exact
        if config.search.scann.sweep:
            sweeps[section.name] = engine.sweep(section)
    facts = {
        **dataclasses.asdict(config.search),
        # Without an adapter all sections share one database and its indexes.
        "built": engine.built() if adapter is None else built,
        "ann_recall": recalls or None,
        "sweep": sweeps or None,
        **describe(config.adapter, adapter, config.rerank),
    }
    return kept, others, facts


def save(found: Ranking, section: Section, embedded: EmbeddedDataset, workdir: epath.Path) -> None:
    """Keeps what was found, with the embedding files that it refers to."""
    images = embedded.images
    origin = trace(section.query_files, images["positive"], images["distractor"])
    found.save(workdir / "rankings" / f"{section.name}.npz", origin.to_text())


def score(
    config: BenchmarkConfig,
    found: dict[str, Ranking],
    truth: GroundTruth,
    num_database: int,
    timings: Timings,
) -> dict[str, Metrics]:
    """Scores what was found against the labels, which enter here and nowhere earlier."""
    results, k = {}, config.search.k
    settings = dataclasses.asdict(config.metrics)
    for name, one in found.items():
        with timings.stage(f"metrics_{name}") as timing:
            results[name] = evaluate(one, truth, k, num_database, **settings)
            timing.items += len(one.query_ids)
    return results


def map_minus_exact(
    backend: str, results: dict[str, Metrics], others: dict[str, Metrics]
) -> dict[str, float] | None:
    """By section, mAP@k of ScaNN's ranking minus that of the exact one, in percent.

    Args:
        backend: that made `results`, "exact" or "scann"; the other one made `others`.
        results: metrics by section.
        others: the same, or none where only one backend ran.

    Returns:
        None without `others`.
    """
    sign = -1.0 if backend == "scann" else 1.0
    return {name: sign * (others[name].map - results[name].map) for name in others} or None
