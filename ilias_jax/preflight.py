"""Checks before anything slow begins: everything that is missing, in one message."""

import json
import logging
import pathlib
from collections.abc import Callable

from etils import epath

from ilias_jax import atomic
from ilias_jax.adapter import read_adapter
from ilias_jax.config import (
    ALLOWANCES,
    AdapterConfig,
    BenchmarkConfig,
    DatasetConfig,
    ModelConfig,
    WorldConfig,
)
from ilias_jax.dataset.check import DatasetCheck, check_dataset
from ilias_jax.dataset.convert import convert
from ilias_jax.dataset.reader import IliasDataset
from ilias_jax.dataset.world.generate import generate_world
from ilias_jax.errors import UserError
from ilias_jax.ground_truth import GroundTruth
from ilias_jax.model_files import bring_model_files
from ilias_jax.plugins.factory import find_factory
from ilias_jax.timings import Timings
from ilias_jax.towers.choice import require_images

_RECIPE = "world.json"  # in a generated folder: the world's recipe
_GENERATOR = 2  # raise it when the same recipe gives other bytes


def check_workdir(workdir: epath.Path) -> None:
    """Creates the workdir and a file in it; raises UserError if that cannot be done."""
    check_writable(workdir, "--workdir")


def check_writable(folder: epath.Path, flag: str) -> None:
    """Creates a folder and a file in it; raises UserError if that cannot be done."""
    try:
        with atomic.replacing(folder / ".writable") as probe:
            probe.write_text("")
        (folder / ".writable").unlink(missing_ok=True)
    except (OSError, ImportError) as error:
        raise UserError(
            f"folder {folder} cannot be written ({error}); name another with {flag}"
        ) from error


def check_inputs(config: BenchmarkConfig, *, needs_model: bool, needs_images: bool = True) -> None:
    """Checks that every input is there; a model's published files are downloaded.

    Args:
        config: of the run.
        needs_model: whether the model is the configuration's.
        needs_images: whether that must have an image tower.

    Raises:
        UserError: names every missing input with the way to get it.
    """
    problems: list[str] = []
    checks: list[Callable[[], object]] = []
    if config.adapter.path:
        checks.append(lambda: _check_adapter(config.adapter))
    if not will_generate(config.dataset):
        checks.append(lambda: open_dataset(config.dataset).check())
        checks.append(lambda: check_texts(config.dataset))
        if config.dataset.world is not None:
            checks.append(lambda: _check_world(config.dataset))
    if needs_model:  # the last, because a download is of no use if the run stops for another reason
        if needs_images and not config.model.factory:
            checks.append(lambda: require_images(config.model))
        checks.append(lambda: _find_model(config.model, download=not problems))
    for check in checks:
        try:
            check()
        except UserError as error:
            problems.append(str(error))
        except ImportError as error:  # etils needs another package for buckets
            problems.append(f"{error}; pip install 'ilias-jax[gcs]' for gs:// paths")
    if problems:
        raise UserError("\n".join(problems))


def _find_model(config: ModelConfig, download: bool) -> None:
    """Raises UserError if the user's function or the named model's files cannot be had."""
    if config.factory:
        find_factory(config.factory)
    else:
        bring_model_files(config, download)


def _check_adapter(config: AdapterConfig) -> None:
    """Raises UserError if the adapter cannot be read."""
    try:
        read_adapter(config.path)
    except UserError as error:
        raise UserError(f"adapter.path: {error}") from error


def open_dataset(config: DatasetConfig) -> IliasDataset:
    """The dataset of a configuration; opens no file yet."""
    return IliasDataset(epath.Path(config.data_dir), config.subset)


def _recipe(world: WorldConfig) -> dict[str, int]:
    """What a world's bytes depend on."""
    return {"generator": _GENERATOR, **vars(world)}


def _check_world(config: DatasetConfig) -> None:
    """Raises UserError if the folder of a configured world holds another one, or none."""
    path = epath.Path(config.data_dir) / _RECIPE
    found = json.loads(path.read_text()) if path.exists() else None
    assert config.world is not None
    wanted = _recipe(config.world)
    if found != wanted:
        what = f"the world {found}" if found else f"no world (it has no {_RECIPE})"
        raise UserError(
            f"dataset.data_dir: {config.data_dir} holds {what}, and dataset.world asks for "
            f"{wanted}; name another folder or remove this one"
        )


def check_texts(config: DatasetConfig) -> None:
    """Raises UserError if there are no text queries and that is not allowed."""
    if "no_text_queries" not in config.allowed and not open_dataset(config).has_texts:
        raise UserError(
            f"dataset.data_dir: {config.data_dir} has no text queries (ilias_text/); convert "
            "ilias_core.tar, which has them, or run image queries alone with "
            "dataset.allow=no_text_queries"
        )


def check_core(dataset: IliasDataset, truth: GroundTruth) -> None:
    """Checks that the shards' queries and positives are the ground truth's, in its order.

    Raises:
        UserError: some are missing, extra or in another order.
    """
    for what, found, expected in (
        ("image queries", dataset.ids("image_query"), truth.image_query_ids),
        ("positives", dataset.ids("positive"), truth.positive_ids),
        ("text queries", [q.query_id for q in dataset.text_queries()], truth.text_query_ids),
    ):
        if what == "text queries" and not dataset.has_texts:
            continue  # check_texts has let it pass
        missing, extra = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
        if missing or extra or found != list(expected):
            raise UserError(
                f"{dataset.data_dir}: the shards' {what} are not those of image_ids/: "
                f"{len(missing)} missing {missing[:3]}, {len(extra)} extra {extra[:3]}, "
                f"{len(found)} in all for {len(expected)}, or another order"
            )


def check_distractors(dataset: IliasDataset, config: DatasetConfig) -> DatasetCheck:
    """Checks the shards' distractors against the official list, from their inventories.

    A folder without any inventory was made before there were some: then the number alone is
    compared here, and the ids once they are embedded.

    Raises:
        UserError: something is wrong that `config.allow` does not name.
    """
    checked = check_dataset(dataset, truth=None)
    allowed = set(config.allowed)
    if not dataset.inventory_path("distractor", 0).parent.exists():
        allowed.add("missing_inventories")
        logging.warning(
            "%s has no inventories: the number of distractors is checked now and their ids when "
            "they are embedded; `ilias-jax convert` writes inventories",
            dataset.data_dir,
        )
    if failures := checked.failures(allowed):
        lines = "\n".join(f"  {problem}" for problem in failures)
        raise UserError(
            f"dataset.data_dir: {dataset.data_dir} does not hold the distractors of "
            f"dataset.subset={dataset.subset}:\n{lines}\n"
            f"A database of another size is another benchmark. dataset.allow takes the names "
            f"{', '.join(ALLOWANCES)}; the report then says so"
        )
    for problem in checked.problems:
        if problem.name in config.allowed:
            logging.warning("%s: allowed: %s", dataset.data_dir, problem)
    return checked


def will_generate(config: DatasetConfig) -> bool:
    """Whether the configuration's miniature world has yet to be generated."""
    return config.world is not None and not epath.Path(config.data_dir).exists()


def generate(config: DatasetConfig, timings: Timings) -> None:
    """Generates the configuration's world and its shards, whole or not at all."""
    with timings.stage("generate_world") as timing:
        assert config.world is not None
        make_world(config.world, config.data_dir, config.read_threads)
        timing.items = sum(
            (
                config.world.num_image_queries,
                config.world.num_positives,
                config.world.num_distractors,
            )
        )


def make_world(world: WorldConfig, data_dir: str | pathlib.Path, num_processes: int) -> None:
    """Generates a world in the official layout with its shards; a folder that exists is whole."""
    if "://" in str(data_dir):
        raise UserError(
            f"dataset.data_dir: a world is generated into a local folder, not {data_dir}"
        )
    try:
        with generate_world(world, pathlib.Path(data_dir), num_processes) as unfinished:
            convert(unfinished, unfinished, num_processes)
            (unfinished / _RECIPE).write_text(json.dumps(_recipe(world), indent=2) + "\n")
    except OSError as error:
        raise UserError(f"dataset.data_dir: {data_dir} cannot be written ({error})") from error
