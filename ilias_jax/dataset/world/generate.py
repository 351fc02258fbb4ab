"""Generates a miniature world: an ILIAS-shaped dataset in the official folder layout.

The same recipe gives the same bytes, whatever the number of processes: every picture has a
generator of its own, seeded by (seed, role, number). With other versions of numpy or Pillow the
bytes may differ.
"""

import concurrent.futures
import contextlib
import functools
import gzip
import io
import json
import multiprocessing
import pathlib
import shutil
import tarfile
import uuid
from collections.abc import Iterator

import numpy as np

from ilias_jax.config import WorldConfig
from ilias_jax.dataset.world import picture as camera
from ilias_jax.dataset.world.things import KINDS, Thing, sample_sibling, sample_thing
from ilias_jax.errors import UserError
from ilias_jax.progress import track

_QUERY, _POSITIVE, _DISTRACTOR, _THINGS = range(4)  # roles, as parts of seeds
_SIBLING_SHARE = 0.4


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


def _picture_of(recipe: WorldConfig, role: int, number: int, thing: Thing) -> camera.Picture:
    """Takes picture `number` of a role. A seventh of all carry an EXIF rotation."""
    rng = np.random.default_rng([recipe.seed, role, number])
    view = camera.sample_clean_view(rng) if role == _QUERY else camera.sample_view(rng, number % 4)
    return camera.take_picture(rng, thing, view, orientation=6 if number % 7 == 3 else 1)


def _write_core_picture(
    recipe: WorldConfig, root: pathlib.Path, job: tuple[int, int, Thing, str]
) -> tuple[float, int]:
    """Writes one core picture and its boxes; returns its scale and clutter."""
    role, number, thing, image_id = job
    taken = _picture_of(recipe, role, number, thing)
    path = root / "ilias_core" / image_id
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(taken.jpeg)
    boxes = path.with_name(path.stem + "_bbox.txt")
    boxes.write_text(" ".join(str(value) for value in taken.box) + "\n")
    return taken.area_ratio, taken.clutter


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


def _write_tar(recipe: WorldConfig, root: pathlib.Path, index: int) -> list[str]:
    """Writes one tar of distractors; returns their ids."""
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


def _core_ids(recipe: WorldConfig, names: list[str], role: int) -> list[tuple[int, str]]:
    """(object, id) of every query or positive; the objects take turns."""
    count = recipe.num_image_queries if role == _QUERY else recipe.num_positives
    folder, letter = ("query", "Q") if role == _QUERY else ("pos", "P")
    ids = []
    for i in range(count):
        owner, number = i % len(names), i // len(names)
        name = f"{letter}{owner:03d}_{number:02d}.jpg"
        ids.append((owner, f"{names[owner]}/{folder}/{name}"))
    return sorted(ids, key=lambda pair: pair[1])


def _write_lines(path: pathlib.Path, lines: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(line + "\n" for line in lines))


def _write_ids(
    root: pathlib.Path,
    queries: list[str],
    texts: list[str],
    positives: list[tuple[str, tuple[float, int]]],
    distractors: list[str],
) -> None:
    """Writes the official id files; the mini selection holds every second distractor."""
    folder = root / "image_ids"
    _write_lines(folder / "image_query_ids.txt", [f"{query},world" for query in queries])
    _write_lines(folder / "text_query_ids.txt", texts)
    _write_lines(
        folder / "positive_ids.txt",
        [f"{image_id},{scale!r},{clutter}" for image_id, (scale, clutter) in positives],
    )
    _write_lines(folder / "mini_ilias_yfcc100m_ids.txt", distractors[::2])
    packed = gzip.compress("".join(f"{i}\n" for i in distractors).encode(), mtime=0)
    (folder / "distractor_ids.txt.gz").write_bytes(packed)


def _taxonomy(names: list[str], things: list[Thing]) -> dict[str, dict[str, dict[str, list[str]]]]:
    """Official form: coarse -> mid -> fine -> objects."""
    tree: dict[str, dict[str, dict[str, list[str]]]] = {}
    for name, thing in zip(names, things, strict=True):
        coarse, mid, fine = thing.taxonomy
        tree.setdefault(coarse, {}).setdefault(mid, {}).setdefault(fine, []).append(name)
    return tree


def _write_texts(root: pathlib.Path, names: list[str], things: list[Thing]) -> list[str]:
    """Writes every object's description; returns the sorted ids of the text queries."""
    ids = []
    for i, (name, thing) in enumerate(zip(names, things, strict=True)):
        ids.append(f"{name}/query/T{i:03d}.txt")
        (root / "ilias_core" / ids[-1]).write_text(thing.describe(i) + "\n")
    return sorted(ids)


def _render(
    recipe: WorldConfig,
    root: pathlib.Path,
    jobs: list[tuple[int, int, Thing, str]],
    num_processes: int,
) -> tuple[list[str], list[tuple[float, int]]]:
    """Renders the tars and the core pictures of `jobs`.

    Returns:
        The sorted distractor ids, and scale and clutter of every job's picture.
    """
    context = multiprocessing.get_context("spawn")
    with (
        track("render world", recipe.num_distractors + len(jobs)) as advance,
        concurrent.futures.ProcessPoolExecutor(num_processes, mp_context=context) as executor,
    ):
        tar = functools.partial(_write_tar, recipe, root)
        tars = executor.map(tar, range(recipe.num_tars))
        core = functools.partial(_write_core_picture, recipe, root)
        pictures = executor.map(core, jobs, chunksize=16)
        distractors, measured = [], []
        for ids in tars:
            distractors += ids
            advance(len(ids))
        for values in pictures:
            measured.append(values)
            advance(1)
    return sorted(distractors), measured


@contextlib.contextmanager
def generate_world(
    recipe: WorldConfig, root: pathlib.Path, num_processes: int = 2
) -> Iterator[pathlib.Path]:
    """Writes a world in the official layout; a folder that exists is complete.

    Args:
        recipe: which world.
        root: folder to create; holds `ilias_core/`, `yfcc100m/`, `image_ids/`, `misc/`.
        num_processes: that render; the bytes do not depend on it.

    Yields:
        The folder under its temporary name, for the caller to add to; renamed on a clean exit.

    Raises:
        UserError: `root` exists.
    """
    if root.exists():
        raise UserError(f"{root} exists; name a folder to create")
    temporary = root.with_name(f".{root.name}.{uuid.uuid4().hex}.tmp")
    (temporary / "yfcc100m").mkdir(parents=True)
    try:
        _write_world(recipe, temporary, num_processes)
        yield temporary
        temporary.rename(root)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write_world(recipe: WorldConfig, root: pathlib.Path, num_processes: int) -> None:
    """Writes all files of a world into an empty folder with a `yfcc100m/`."""
    things = world_things(recipe)
    names = [object_name(i, thing) for i, thing in enumerate(things)]
    queries, positives = (_core_ids(recipe, names, role) for role in (_QUERY, _POSITIVE))
    jobs = [
        (role, number, things[owner], image_id)
        for role, ids in ((_QUERY, queries), (_POSITIVE, positives))
        for number, (owner, image_id) in enumerate(ids)
    ]
    distractors, measured = _render(recipe, root, jobs, num_processes)
    texts = _write_texts(root, names, things)
    _write_ids(
        root,
        [image_id for _, image_id in queries],
        texts,
        [
            (image_id, values)
            for (_, image_id), values in zip(positives, measured[len(queries) :], strict=True)
        ],
        distractors,
    )
    (root / "misc").mkdir()
    text = json.dumps(_taxonomy(names, things), indent=1)
    (root / "misc" / "taxonomy.json").write_text(text)
