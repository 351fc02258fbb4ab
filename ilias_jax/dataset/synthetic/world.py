"""A miniature world with its shards: made whole or not at all, and told from another one."""

import json
import pathlib

from etils import epath

from ilias_jax.config import DatasetConfig, WorldConfig
from ilias_jax.dataset.convert import convert
from ilias_jax.dataset.synthetic.generate import generate_world
from ilias_jax.errors import UserError
from ilias_jax.profiling import Timings

_RECIPE = "world.json"  # in a generated folder: the world's recipe
_GENERATOR = 2  # raise it when the same recipe gives other bytes


def will_generate(config: DatasetConfig) -> bool:
    """Whether the configuration's miniature world has yet to be generated."""
    return config.world is not None and not epath.Path(config.data_dir).exists()


def check_world(config: DatasetConfig) -> None:
    """Raises UserError if the folder of a configured world holds another one, or none."""
    if config.world is None:
        return
    path = epath.Path(config.data_dir) / _RECIPE
    found = json.loads(path.read_text()) if path.exists() else None
    wanted = _recipe(config.world)
    if found != wanted:
        what = f"the world {found}" if found else f"no world (it has no {_RECIPE})"
        raise UserError(
            f"dataset.data_dir: {config.data_dir} holds {what}, and dataset.world asks for "
            f"{wanted}; name another folder or remove this one"
        )


def generate_configured(config: DatasetConfig, timings: Timings) -> None:
    """Generates the configuration's world and its shards."""
    world = config.world
    assert world is not None
    with timings.stage("generate_world") as timing:
        make_world(world, config.data_dir, config.read_threads)
        timing.items = world.num_image_queries + world.num_positives + world.num_distractors


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


def _recipe(world: WorldConfig) -> dict[str, int]:
    """What a world's bytes depend on."""
    return {"generator": _GENERATOR, **vars(world)}
