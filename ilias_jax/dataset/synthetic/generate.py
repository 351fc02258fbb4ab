"""A miniature world: an ILIAS-shaped dataset in the official folder layout, with its shards.

The same recipe gives the same bytes, whatever the number of processes: every picture has a
generator of its own, seeded by (seed, role, number). With other versions of numpy or Pillow the
bytes may differ.
"""

import contextlib
import functools
import gzip
import io
import json
import logging
import pathlib
import shutil
import tarfile
import uuid
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from etils import epath

from ilias_jax import files
from ilias_jax.config import DatasetConfig, WorldConfig
from ilias_jax.dataset import layout
from ilias_jax.dataset.processes import run_jobs
from ilias_jax.dataset.synthetic import scene
from ilias_jax.dataset.synthetic.objects import KINDS, Thing, sample_sibling, sample_thing
from ilias_jax.errors import UserError
from ilias_jax.progress import track

if TYPE_CHECKING:  # the processes that render need no JAX
    from ilias_jax.profiling import Timings

_RECIPE = "world.json"  # in a generated folder: the world's recipe
_GENERATOR = 2  # raise it when the same recipe gives other bytes
_QUERY, _POSITIVE, _DISTRACTOR, _THINGS = range(4)  # roles, as parts of seeds
_SIBLING_SHARE = 0.4
Job = tuple[int, int, Thing, str]  # role, number, thing and id of a core picture


def world_things(recipe: WorldConfig) -> list[Thing]:
    """The world's objects, all different, spread evenly over the kinds."""
    rng = np.random.default_rng([recipe.seed, _THINGS])
    things: dict[Thing, None] = {}
    while len(things) < recipe.num_objects:
        things[sample_thing(rng, "benchmark", KINDS[len(things) % len(KINDS)])] = None
    return list(things)


def object_name(index: int, thing: Thing) -> str:
    """Official form of an object's name: words and a number."""
    return f"{thing.taxonomy[2]}_{index:03d}"


@contextlib.contextmanager
def generate_world(
    recipe: WorldConfig, root: pathlib.Path, num_processes: int = 2
) -> Iterator[pathlib.Path]:
    """Writes a world in the official layout into `root`; a folder that exists is complete.

    Yields:
        The folder under its temporary name, for the caller to add to; renamed on a clean exit.

    Raises:
        UserError: `root` exists.
    """
    if root.exists():
        raise UserError(f"{root} exists; name a folder to create")
    temporary = root.with_name(f".{root.name}.{uuid.uuid4().hex}.tmp")
    try:
        for folder in ("yfcc100m", "image_ids", "misc"):
            (temporary / folder).mkdir(parents=True)
        _write_world(recipe, temporary, num_processes)
        yield temporary
        temporary.rename(root)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write_world(recipe: WorldConfig, root: pathlib.Path, num_processes: int) -> None:
    """Writes all files of a world into its empty folders; mini is every second distractor."""
    things = world_things(recipe)
    names = [object_name(i, thing) for i, thing in enumerate(things)]
    queries = _core_jobs(_QUERY, recipe.num_image_queries, names, things)
    positives = _core_jobs(_POSITIVE, recipe.num_positives, names, things)
    distractors, measured = _render(recipe, root, [*queries, *positives], num_processes)
    labels = zip(positives, measured[len(queries) :], strict=True)
    texts = {f"{n}/query/T{i:03d}.txt": things[i].describe(i) for i, n in enumerate(names)}
    for query_id, text in texts.items():
        (root / "ilias_core" / query_id).write_text(text + "\n")
    ids = root / "image_ids"
    ids.joinpath("image_query_ids.txt").write_text(_lines(f"{job[3]},world" for job in queries))
    ids.joinpath("text_query_ids.txt").write_text(_lines(sorted(texts)))
    rows = (f"{job[3]},{scale!r},{clutter}" for job, (scale, clutter) in labels)
    ids.joinpath("positive_ids.txt").write_text(_lines(rows))
    ids.joinpath(layout.MINI_LIST).write_text(_lines(distractors[::2]))
    full = gzip.compress(_lines(distractors).encode(), mtime=0)
    ids.joinpath(layout.FULL_LIST).write_bytes(full)
    taxonomy: dict[str, dict[str, dict[str, list[str]]]] = {}
    for name, thing in zip(names, things, strict=True):
        coarse, mid, fine = thing.taxonomy
        taxonomy.setdefault(coarse, {}).setdefault(mid, {}).setdefault(fine, []).append(name)
    (root / "misc" / "taxonomy.json").write_text(json.dumps(taxonomy, indent=1))


def _lines(lines: Iterable[str]) -> str:
    return "".join(line + "\n" for line in lines)


def _core_jobs(role: int, count: int, names: list[str], things: list[Thing]) -> list[Job]:
    """What to render for every query or positive, by id; the objects take turns."""
    folder, letter = ("query", "Q") if role == _QUERY else ("pos", "P")
    owners = {}
    for i in range(count):
        owner, number = i % len(names), i // len(names)
        owners[f"{names[owner]}/{folder}/{letter}{owner:03d}_{number:02d}.jpg"] = things[owner]
    return [(role, n, owners[image_id], image_id) for n, image_id in enumerate(sorted(owners))]


def _render(
    recipe: WorldConfig, root: pathlib.Path, jobs: list[Job], num_processes: int
) -> tuple[list[str], list[tuple[float, int]]]:
    """Renders tars and core pictures; sorted distractor ids, scale and clutter of every job's."""
    render = functools.partial(_render_one, recipe, root)
    distractors: list[str] = []
    measured: dict[Job, tuple[float, int]] = {}
    with track("render world", recipe.num_distractors + len(jobs)) as advance:
        for job, made in run_jobs(render, [*range(recipe.num_tars), *jobs], num_processes):
            if isinstance(job, int):
                distractors += made
                advance(len(made))
            else:
                measured[job] = made
                advance(1)
    return sorted(distractors), [measured[job] for job in jobs]


def _render_one(recipe: WorldConfig, root: pathlib.Path, job: int | Job) -> Any:
    write: Any = _write_tar if isinstance(job, int) else _write_core_picture
    return write(recipe, root, job)


def _write_core_picture(recipe: WorldConfig, root: pathlib.Path, job: Job) -> tuple[float, int]:
    """Writes a core picture and its box; returns its scale and clutter."""
    role, number, thing, image_id = job
    taken = _picture_of(recipe, role, number, thing)
    path = root / "ilias_core" / image_id
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(taken.jpeg)
    boxes = path.with_name(path.stem + "_bbox.txt")
    boxes.write_text(" ".join(str(value) for value in taken.box) + "\n")
    return taken.area_ratio, taken.clutter


def _write_tar(recipe: WorldConfig, root: pathlib.Path, index: int) -> list[str]:
    things = world_things(recipe)
    name = f"world_{index:03d}.tar"
    numbers = range(index, recipe.num_distractors, recipe.num_tars)
    with tarfile.open(root / "yfcc100m" / name, "w", format=tarfile.USTAR_FORMAT) as tar:
        for number in numbers:
            thing = _distractor_thing(recipe, number, things)
            jpeg = _picture_of(recipe, _DISTRACTOR, number, thing).jpeg
            member = tarfile.TarInfo(f"{number:08d}.jpg")  # mtime 0: the same bytes every time
            member.size = len(jpeg)
            tar.addfile(member, io.BytesIO(jpeg))
    return [f"{name}/{number:08d}" for number in numbers]


def _distractor_thing(recipe: WorldConfig, number: int, things: list[Thing]) -> Thing:
    """Another thing of the same categories; many differ from an object in little."""
    rng = np.random.default_rng([recipe.seed, _THINGS, number])
    while True:
        if rng.random() < _SIBLING_SHARE:
            chosen = things[int(rng.integers(len(things)))]
            thing = sample_sibling(rng, chosen, int(rng.integers(1, 3)))
        else:
            thing = sample_thing(rng, "benchmark")
        if thing not in things:
            return thing


def _picture_of(recipe: WorldConfig, role: int, number: int, thing: Thing) -> scene.Picture:
    """Takes picture `number` of a role. A seventh of all carry an EXIF rotation."""
    rng = np.random.default_rng([recipe.seed, role, number])
    view = scene.sample_clean_view(rng) if role == _QUERY else scene.sample_view(rng, number % 4)
    return scene.take_picture(rng, thing, view, orientation=6 if number % 7 == 3 else 1)


def will_generate(config: DatasetConfig) -> bool:
    """Whether the configuration's miniature world has yet to be generated."""
    return config.world is not None and not epath.Path(config.data_dir).exists()


def check_world(config: DatasetConfig) -> None:
    """Raises UserError if the folder of a configured world holds another one, or none."""
    if config.world is None:
        return
    path = epath.Path(config.data_dir) / _RECIPE
    found = files.read_json(path, "expected a world's recipe") if path.exists() else None
    wanted = _recipe(config.world)
    if found != wanted:
        what = f"the world {found}" if found else f"no world (it has no {_RECIPE})"
        raise UserError(
            f"dataset.data_dir: {config.data_dir} holds {what}, and dataset.world asks for "
            f"{wanted}; name another folder or remove this one"
        )


def generate_configured(config: DatasetConfig, timings: "Timings") -> None:
    """Generates the configuration's world and its shards."""
    world = config.world
    assert world is not None
    with timings.stage("generate_world") as timing:
        if not make_world(world, config.data_dir, config.read_threads):
            check_world(config)
        timing.items = world.num_image_queries + world.num_positives + world.num_distractors


def make_world(world: WorldConfig, data_dir: str | pathlib.Path, num_processes: int) -> bool:
    """Generates a world in the official layout with its shards; a folder that exists is whole.

    Waits where another process generates into the same folder, and removes what a killed one has
    left.

    Returns:
        False if the other process has done it.
    """
    if "://" in str(data_dir):
        raise UserError(
            f"dataset.data_dir: a world is generated into a local folder, not {data_dir}"
        )
    path = epath.Path(data_dir)
    lock = files.try_lock(path)
    if lock is None:
        logging.warning("%s: another process generates it; waiting", path)
        lock = files.lock_unless_done(path, path.exists)
    if lock is None:
        return False
    with contextlib.closing(lock):
        _make_locked(world, pathlib.Path(data_dir), num_processes)
    return True


def _make_locked(world: WorldConfig, data_dir: pathlib.Path, num_processes: int) -> None:
    from ilias_jax.dataset.convert import convert  # the processes that render need no TFDS

    try:
        with generate_world(world, data_dir, num_processes) as unfinished:
            convert(unfinished, unfinished, num_processes)
            (unfinished / _RECIPE).write_text(json.dumps(_recipe(world), indent=2) + "\n")
    except OSError as error:
        raise UserError(
            f"dataset.data_dir: {data_dir} cannot be written ({error.strerror})"
        ) from error


def _recipe(world: WorldConfig) -> dict[str, int]:
    return {"generator": _GENERATOR, **vars(world)}
