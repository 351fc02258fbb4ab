"""The benchmark: resolve the inputs, embed, search, score, report."""

import dataclasses
import functools
from collections.abc import Callable
from typing import TypeVar

import jax
from etils import epath
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from ilias_jax.config import AdapterConfig, BenchmarkConfig
from ilias_jax.dataset.check import DatasetCheck, check_core, check_distractors, check_texts
from ilias_jax.dataset.ground_truth import GroundTruth, read_ground_truth
from ilias_jax.dataset.reader import IliasDataset, open_dataset
from ilias_jax.dataset.synthetic.generate import (
    check_world,
    generate_configured,
    will_generate,
)
from ilias_jax.embeddings.database import (
    DatabaseCounts,
    count_database,
    describe_dataset,
)
from ilias_jax.embeddings.extract import EmbeddedDataset, embed_dataset
from ilias_jax.errors import UserError
from ilias_jax.files import check_writable, write_npz
from ilias_jax.mesh import make_mesh
from ilias_jax.metrics import Metrics, evaluate
from ilias_jax.metrics.compare import compare_results
from ilias_jax.metrics.published import compare_with_published, read_published
from ilias_jax.model import Model
from ilias_jax.models import hub
from ilias_jax.models.custom import Factory
from ilias_jax.models.load import load_model
from ilias_jax.models.registry.entry import ResolvedModel
from ilias_jax.models.registry.registry import resolve as resolve_model
from ilias_jax.profiling import Timings
from ilias_jax.report import manifest, write_report
from ilias_jax.report.gallery import make_gallery
from ilias_jax.rerank.reranker import check_method
from ilias_jax.rerank.stage import RERANKED, Reranked, Reranking, rerank, resolve_reranking
from ilias_jax.search.adapter import Adapter, read_adapter
from ilias_jax.search.backends import BACKENDS, check_backend, shares_search
from ilias_jax.search.pipeline import check_adapter, search, sections
from ilias_jax.search.ranking import Ranking

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Inputs:
    """What a run is made of. Later steps read no path of the configuration.

    Attributes:
        mesh: of this process's devices.
        dataset: that is embedded.
        truth: its labels.
        checked: what the check of its distractors found.
        model: loaded.
        adapter: of the image-to-image section; None for none.
        reranking: of the image queries' shortlists; None for none.
    """

    mesh: Mesh
    dataset: IliasDataset
    truth: GroundTruth
    checked: DatasetCheck
    model: Model
    adapter: Adapter | None
    reranking: Reranking | None


def run(
    config: BenchmarkConfig, workdir: epath.Path, model: Model | None = None
) -> dict[str, object] | None:
    """Runs the benchmark; what an earlier run has embedded is not embedded again.

    Args:
        config: of the run.
        workdir: receives `embeddings/`, `index/`, `rankings/` and `report/`, and of a re-ranking
            `descriptors/` and `rerank/`.
        model: the user's own; by default the one that `config.model` names.

    Returns:
        The content of `report/report.json`; None in all processes but the first.

    Raises:
        UserError: an input is missing or wrong; before the first compilation where possible.
    """
    timings = Timings()
    inputs = resolve(config, workdir, timings, model)
    mesh, dataset, truth = inputs.mesh, inputs.dataset, inputs.truth
    embedded = embed_dataset(dataset, inputs.model, mesh, config, workdir / "embeddings", timings)
    _wait_for_all("embeddings")
    is_first = jax.process_index() == 0
    if is_first:
        counts = count_database(embedded, truth, dataset, inputs.checked, config.dataset.allowed)
    if is_first or shares_search(config.search):
        found = search(config, mesh, embedded, inputs.adapter, workdir, timings)
    reranked = _rerank(config, inputs, embedded, workdir, timings) if inputs.reranking else None
    if not is_first:
        return None
    if reranked is not None:
        found.rankings[RERANKED] = reranked.ranking
    results = score(config, found.rankings, truth, counts.num_rows, timings)
    compared = score(config, found.compared, truth, counts.num_rows, timings)
    found.facts["map_minus_exact"] = map_minus_exact(config.search.backend, results, compared)
    with timings.stage("pictures"):
        gallery = make_gallery(
            results, found.rankings, truth, dataset, embedded, config.report, reranked
        )
    document = describe(config, inputs, embedded, counts, results, found.facts, timings)
    if reranked is not None:
        ranking = found.rankings["image_to_image"]
        document["rerank"] = describe_reranking(
            config, truth, counts.num_rows, ranking, reranked, results
        )
    write_report(workdir / "report", document, gallery)
    return document


def resolve(
    config: BenchmarkConfig,
    workdir: epath.Path,
    timings: Timings,
    model: Model | None = None,
) -> Inputs:
    """Finds, checks and opens everything that a run reads; compiles nothing.

    A configured miniature world that is not there is generated, missing published files of the
    model are downloaded.

    Args:
        config: of the run.
        workdir: must be writable.
        timings: receive a stage for what takes long.
        model: the user's own; None for the configured one.

    Raises:
        UserError: inputs are missing, all in one message with the way to get each; or one is wrong.
    """
    check_writable(workdir, "--workdir")
    adapter, found = find_inputs(config, model)
    if isinstance(found, Factory):
        found = found.load()
    if adapter is not None:
        check_adapter(adapter, config.adapter.path, found)
    mesh = make_mesh(config.mesh.model_partitions)
    if will_generate(config.dataset) and jax.process_index() == 0:
        generate_configured(config.dataset, timings)
    _wait_for_all("world")
    dataset = open_dataset(config.dataset)
    dataset.check()
    truth = read_ground_truth(dataset.data_dir)
    check_core(dataset, truth)
    loaded = found if isinstance(found, Model) else load_model(found)
    reranking = resolve_reranking(config, loaded, mesh) if config.rerank.method else None
    with timings.stage("check_distractors"):  # takes minutes, so that all else is seen before
        checked = check_distractors(dataset, config.dataset.allowed)
    return Inputs(mesh, dataset, truth, checked, loaded, adapter, reranking)


def find_inputs(
    config: BenchmarkConfig, model: Model | None = None
) -> tuple[Adapter | None, Model | ResolvedModel | Factory]:
    """The adapter and what the model is made of; all that is missing gives one message."""
    problems, data = _Problems(), config.dataset
    problems.attempt(lambda: check_backend(config.search.backend))
    problems.attempt(lambda: check_method(config.rerank.method))
    adapter = problems.attempt(lambda: _read_adapter(config.adapter))
    if not will_generate(data):
        problems.attempt(open_dataset(data).check)
        problems.attempt(lambda: check_texts(open_dataset(data), data.allowed))
        problems.attempt(lambda: check_world(data))
    found: Model | ResolvedModel | Factory | None = model
    if found is None:  # the last, because a download is of no use if the run stops anyway
        dry_run = bool(problems.messages)
        found = problems.attempt(
            lambda: resolve_model(
                config.model,
                max_scale=config.views.max_scale,
                num_buckets=config.embed.num_buckets,
                bring=functools.partial(hub.bring, dry_run=dry_run),
            )
        )
    if problems.messages:
        raise UserError("\n".join(problems.messages))
    assert found is not None  # or there is a message
    return adapter, found


class _Problems:
    def __init__(self) -> None:
        self.messages: list[str] = []

    def attempt(self, find: Callable[[], T]) -> T | None:
        """What `find` returns; None and a message if it raises."""
        try:
            return find()
        except UserError as error:
            self.messages.append(str(error))
        except ImportError as error:  # etils needs another package for buckets
            self.messages.append(f"{error}; pip install 'ilias-jax[gcs]' for gs:// paths")
        return None


def _read_adapter(config: AdapterConfig) -> Adapter | None:
    try:
        return read_adapter(config.path) if config.path else None
    except UserError as error:
        raise UserError(f"adapter.path: {error}") from error


def _wait_for_all(name: str) -> None:
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def _rerank(
    config: BenchmarkConfig,
    inputs: Inputs,
    embedded: EmbeddedDataset,
    workdir: epath.Path,
    timings: Timings,
) -> Reranked:
    """Re-ranks the image queries' lists; all processes read them where the first has put them."""
    assert inputs.reranking is not None
    _wait_for_all("search")
    section = next(sections(embedded, inputs.adapter))
    ranking = Ranking.load(workdir / "rankings" / f"{section.name}.npz")
    sources = inputs.dataset, embedded, section, ranking
    reranked = rerank(config, inputs.mesh, inputs.reranking, *sources, workdir, timings)
    if jax.process_index() == 0:
        path = workdir / "rankings" / f"{RERANKED}.npz"
        reranked.ranking.save(path, section.provenance.to_text())
        write_npz(workdir / "rerank" / "scores.npz", scores=reranked.scores)
    return reranked


def describe_reranking(
    config: BenchmarkConfig,
    truth: GroundTruth,
    num_database: int,
    ranking: Ranking,
    reranked: Reranked,
    results: dict[str, Metrics],
) -> dict[str, object]:
    """What was re-ranked and how, and the paired difference that it made to the ranking."""
    before, after = results["image_to_image"], results[RERANKED]
    length = reranked.length
    recall = before.oracle
    if length < config.search.k:
        short = dataclasses.replace(
            ranking, indices=ranking.indices[:, :length], scores=ranking.scores[:, :length]
        )
        recall = evaluate(short, truth, length, num_database).oracle
    settings = dataclasses.asdict(config.metrics)
    difference = compare_results(
        before.to_dict(),
        after.to_dict(),
        {name: path[:2] for name, path in truth.objects().items()},
        num_permutations=settings["num_resamples"],
        **settings,
    )
    return {**reranked.facts, "shortlist_recall": recall, "difference": difference}


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


def describe(
    config: BenchmarkConfig,
    inputs: Inputs,
    embedded: EmbeddedDataset,
    counts: DatabaseCounts,
    results: dict[str, Metrics],
    search_facts: dict[str, object],
    timings: Timings,
) -> dict[str, object]:
    """The content of `report/report.json`."""
    values = dataclasses.asdict(config)
    facts = describe_dataset(config.dataset, inputs.truth, counts)
    model = manifest.describe_model(inputs.model, embedded)
    numbers = {name: metrics.to_dict() for name, metrics in results.items()}
    return {
        "schema": 1,
        "dataset": facts,
        "rejected": embedded.database.rejected(),
        "rejected_at_conversion": inputs.checked.rejected,
        "model": model,
        "results": numbers,
        "objects": {name: list(path[:2]) for name, path in inputs.truth.objects().items()},
        "published": compare_with_published(
            read_published(),
            values,
            model,
            facts,
            {name: numbers[name] for name in numbers if name != RERANKED},
        ),
        "search": search_facts,
        "timings": timings.to_dict(),
        "manifest": manifest.make_manifest(values, facts),
    }
