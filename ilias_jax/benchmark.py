"""The whole story: dataset, embeddings, rankings, scores, report."""

import dataclasses

import jax
from etils import epath
from jax.experimental import multihost_utils

from ilias_jax import manifest, preflight
from ilias_jax.config import BenchmarkConfig
from ilias_jax.database import count_database, describe_dataset
from ilias_jax.extraction import embed_dataset
from ilias_jax.gallery import make_gallery
from ilias_jax.ground_truth import GroundTruth, read_ground_truth
from ilias_jax.mesh import make_mesh
from ilias_jax.metrics import Metrics, evaluate
from ilias_jax.model import Model
from ilias_jax.plugins.factory import build_model
from ilias_jax.published import read_published
from ilias_jax.report import write_report
from ilias_jax.search.backends import BACKENDS, shares_search
from ilias_jax.search.pipeline import check_adapter, search
from ilias_jax.search.ranking import Ranking
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
    embedded = embed_dataset(dataset, model, mesh, config, workdir / "embeddings", timings)
    _wait_for_all("embeddings")
    is_first = jax.process_index() == 0
    if is_first:
        counts = count_database(embedded, truth, dataset, checked, config.dataset.allowed)
    elif not shares_search(config.search):
        return None
    found = search(config, mesh, embedded, workdir, timings)
    if not is_first:
        return None
    results = score(config, found.rankings, truth, counts.num_rows, timings)
    compared = score(config, found.compared, truth, counts.num_rows, timings)
    found.facts["map_minus_exact"] = map_minus_exact(config.search.backend, results, compared)
    with timings.stage("pictures"):
        gallery = make_gallery(results, found.rankings, truth, dataset, embedded, config.report)
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
        "search": found.facts,
        "timings": timings.to_dict(),
        "manifest": manifest.make_manifest(values, facts),
    }
    write_report(workdir / "report", document, gallery)
    return document


def _wait_for_all(name: str) -> None:
    """Waits until every process is here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def score(
    config: BenchmarkConfig,
    rankings: dict[str, Ranking],
    truth: GroundTruth,
    num_database: int,
    timings: Timings,
) -> dict[str, Metrics]:
    """Scores rankings against the labels, which enter here and nowhere earlier."""
    results, k = {}, config.search.k
    settings = dataclasses.asdict(config.metrics)
    for name, ranking in rankings.items():
        with timings.stage(f"metrics_{name}") as timing:
            results[name] = evaluate(ranking, truth, k, num_database, **settings)
            timing.items += len(ranking.query_ids)
    return results


def map_minus_exact(
    backend: str, results: dict[str, Metrics], others: dict[str, Metrics]
) -> dict[str, float] | None:
    """By section, mAP@k of the approximate ranking minus that of the exact one, in percent.

    Args:
        backend: that made `results`; of the other kind is the one that made `others`.
        results: metrics by section.
        others: the same, or none where only one backend ran.

    Returns:
        None without `others`.
    """
    sign = 1.0 if BACKENDS[backend].is_exact else -1.0
    return {name: sign * (others[name].map - results[name].map) for name in others} or None
