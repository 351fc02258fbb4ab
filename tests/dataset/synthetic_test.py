"""The miniature world: reproducible, in the official layout, with everything ILIAS has."""

import csv
import gzip
import hashlib
import io
import json
import pathlib
import re
import tarfile

import numpy as np
import pytest
from conftest import SMALL_WORLD
from etils import epath
from PIL import Image, ImageOps

from ilias_jax import files
from ilias_jax.config import WorldConfig
from ilias_jax.dataset.ground_truth import read_ground_truth
from ilias_jax.dataset.id_lists import object_of
from ilias_jax.dataset.synthetic.generate import (
    _distractor_thing,
    generate_world,
    make_world,
    object_name,
    world_things,
)
from ilias_jax.dataset.synthetic.objects import (
    KINDS,
    NUM_TEMPLATES,
    Thing,
    sample_sibling,
    sample_thing,
)
from ilias_jax.errors import UserError

RECIPE = WorldConfig(**vars(SMALL_WORLD))
SCALE_EDGES = (0.06880213760855043, 0.13526567164179104, 0.2729876723163842)
CLUTTER_EDGES = (18, 33, 53)


def hashes(folder: pathlib.Path) -> dict[str, str]:
    """Relative path -> sha256 of every file."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def id_rows(world: pathlib.Path, name: str) -> list[list[str]]:
    return list(csv.reader((world / "image_ids" / name).read_text().splitlines()))


def core_pictures(world: pathlib.Path) -> dict[str, tuple[Image.Image, list[float]]]:
    """Id -> (picture as stored, box) of all image queries and positives."""
    ids = [
        row[0]
        for name in ("image_query_ids.txt", "positive_ids.txt")
        for row in id_rows(world, name)
    ]
    found = {}
    for image_id in ids:
        path = world / "ilias_core" / image_id
        box = path.with_name(path.stem + "_bbox.txt").read_text().split()
        found[image_id] = (Image.open(io.BytesIO(path.read_bytes())), [float(v) for v in box])
    return found


def members(path: pathlib.Path) -> list[str]:
    with tarfile.open(path) as tar:
        return tar.getnames()


def tiny_recipe(**changes: int) -> WorldConfig:
    sizes = {
        "seed": 5,
        "num_objects": 2,
        "num_image_queries": 2,
        "num_positives": 2,
        "num_distractors": 2,
        "num_tars": 1,
    }
    return WorldConfig(**{**sizes, **changes})


def test_same_recipe_gives_same_bytes_whatever_the_number_of_processes(
    small_world: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    make_world(SMALL_WORLD, tmp_path / "again", num_processes=2)
    assert hashes(tmp_path / "again") == hashes(small_world)


def test_another_seed_gives_other_pictures(tmp_path: pathlib.Path) -> None:
    for seed in (5, 6):
        with generate_world(tiny_recipe(seed=seed), tmp_path / str(seed), num_processes=1):
            pass
    images = [
        set(hashes(tmp_path / str(seed) / folder).values())
        for folder in ("ilias_core", "yfcc100m")
        for seed in (5, 6)
    ]
    assert not images[0] & images[1]
    assert not images[2] & images[3]


def test_interrupted_generation_leaves_no_folder(tmp_path: pathlib.Path) -> None:
    root = tmp_path / "world"
    with (
        pytest.raises(KeyboardInterrupt),
        generate_world(tiny_recipe(), root, num_processes=1) as unfinished,
    ):
        assert unfinished != root and not root.exists()
        (unfinished / "stale").touch()
        raise KeyboardInterrupt
    assert not root.exists()
    with generate_world(tiny_recipe(), root, num_processes=1):
        assert not root.exists()
    assert not (root / "stale").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["world"]


def test_what_a_killed_process_has_left_is_removed(tmp_path: pathlib.Path) -> None:
    left = tmp_path / f".world.{'0' * 32}.tmp"
    (left / "yfcc100m").mkdir(parents=True)
    other = tmp_path / f".another.{'0' * 32}.tmp"
    other.mkdir()
    assert make_world(tiny_recipe(), tmp_path / "world", num_processes=1)
    assert {path.name for path in tmp_path.iterdir()} == {"world", other.name}


def test_a_world_that_another_process_makes_is_waited_for(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = files.try_lock(epath.Path(tmp_path / "world"))
    assert held is not None

    def finish(seconds: float) -> None:
        (tmp_path / "world").mkdir()
        held.close()

    monkeypatch.setattr(files.time, "sleep", finish)
    assert not make_world(tiny_recipe(), tmp_path / "world", num_processes=1)
    assert "world: another process generates it; waiting" in caplog.text
    assert list((tmp_path / "world").iterdir()) == []


def test_an_existing_folder_is_refused_before_any_work(tmp_path: pathlib.Path) -> None:
    with (
        pytest.raises(UserError, match=re.escape(f"{tmp_path} exists")),
        generate_world(tiny_recipe(), tmp_path, num_processes=1),
    ):
        pass
    assert not tmp_path.with_name(tmp_path.name + ".tmp").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"num_image_queries": 1},
            "num_image_queries=1 is not allowed; it must be >= num_objects=2",
        ),
        ({"num_positives": 1}, "num_positives=1 is not allowed; it must be >= num_objects=2"),
        ({"num_objects": 0}, "num_objects=0 is not allowed; it must be >= 1"),
        ({"num_tars": 3}, r"num_tars=3 is not allowed; it must be in \[1, num_distractors=2\]"),
        ({"num_tars": 0}, "num_tars=0 is not allowed; it must be in"),
        ({"num_distractors": 0}, "num_distractors=0"),
        ({"seed": -1}, "seed=-1 is not allowed; it must be >= 0"),
    ],
)
def test_impossible_recipes_are_refused(changes: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        tiny_recipe(**changes)


def test_objects_are_different_things_of_all_kinds() -> None:
    things = world_things(WorldConfig())
    assert len(set(things)) == WorldConfig().num_objects
    assert {thing.kind for thing in things} == set(KINDS)
    assert {thing.pool for thing in things} == {"benchmark"}
    names = [object_name(i, thing) for i, thing in enumerate(things)]
    assert all(re.fullmatch(r"[a-z_]+_\d{3}", name) for name in names)


def test_distractors_are_never_an_object_and_often_a_near_one() -> None:
    recipe = WorldConfig(num_objects=30, num_image_queries=30, num_positives=30)
    things = world_things(recipe)
    others = [_distractor_thing(recipe, number, things) for number in range(800)]
    assert not set(others) & set(things)
    fields = ("kind", "color", "accent", "pattern", "mark", "label")

    def differences(a: Thing, b: Thing) -> int:
        return sum(getattr(a, field) != getattr(b, field) for field in fields)

    near = [min(differences(other, thing) for thing in things) <= 3 for other in others]
    assert 0.3 < np.mean(near) < 0.8


def test_a_distractor_drawn_as_an_object_is_drawn_again(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = WorldConfig(num_objects=3, num_image_queries=3, num_positives=3)
    things = world_things(recipe)
    draws = iter([things[0], things[2], sample_thing(np.random.default_rng(0), "benchmark")])
    module = "ilias_jax.dataset.synthetic.generate."
    monkeypatch.setattr(module + "sample_thing", lambda *_: next(draws))
    monkeypatch.setattr(module + "sample_sibling", lambda *_: next(draws))
    assert _distractor_thing(recipe, 0, things) not in things


def test_benchmark_and_training_pools_are_disjoint() -> None:
    rng = np.random.default_rng(0)
    pools = {
        pool: {sample_thing(rng, pool, "mug") for _ in range(4000)}
        for pool in ("benchmark", "training")
    }
    assert min(map(len, pools.values())) > 3000
    # Were the pool ignored, some 30 of 4000 draws from half a million mugs would be in both.
    assert not pools["benchmark"] & pools["training"]


@pytest.mark.parametrize("num_changes", [1, 2])
def test_a_sibling_is_another_thing_of_the_same_kind_and_pool(num_changes: int) -> None:
    rng = np.random.default_rng(num_changes)
    for _ in range(200):
        thing = sample_thing(rng, "benchmark")
        sibling = sample_sibling(rng, thing, num_changes)
        assert (sibling.kind, sibling.pool) == (thing.kind, "benchmark")
        assert sibling.mark != thing.mark
        assert sibling.color not in (sibling.accent, sibling.label)
        changed = [sibling.color != thing.color, sibling.accent != thing.accent]
        assert sum([*changed, sibling.pattern != thing.pattern]) == num_changes


def test_descriptions_name_every_attribute_and_are_unique(small_world: pathlib.Path) -> None:
    things = world_things(WorldConfig())
    for template in range(NUM_TEMPLATES):
        texts = [thing.describe(template) for thing in things]
        assert len(set(texts)) == len(things)
        for thing, text in zip(things, texts, strict=True):
            assert all(value in text for value in vars(thing).values())
    files = list(small_world.glob("ilias_core/*/query/T*.txt"))
    assert len({file.read_text() for file in files}) == len(files) == SMALL_WORLD.num_objects


def test_ids_have_the_official_form_and_files(small_world: pathlib.Path) -> None:
    patterns = {
        "image_query_ids.txt": r"([a-z_]+_(\d{3}))/query/Q\2_\d{2}\.jpg",
        "text_query_ids.txt": r"([a-z_]+_(\d{3}))/query/T\2\.txt",
        "positive_ids.txt": r"([a-z_]+_(\d{3}))/pos/P\2_\d{2}\.jpg",
    }
    counts = (SMALL_WORLD.num_image_queries, SMALL_WORLD.num_objects, SMALL_WORLD.num_positives)
    columns = (2, 1, 3)
    for (name, pattern), count, width in zip(patterns.items(), counts, columns, strict=True):
        rows = id_rows(small_world, name)
        assert {len(row) for row in rows} == {width}
        ids = [row[0] for row in rows]
        assert len(set(ids)) == len(ids) == count
        assert all(re.fullmatch(pattern, image_id) for image_id in ids)
        assert {object_of(i) for i in ids} == {p.name for p in small_world.glob("ilias_core/*")}
        assert all((small_world / "ilias_core" / image_id).exists() for image_id in ids)
    pictures = list(small_world.glob("ilias_core/**/*.jpg"))
    assert len(pictures) == SMALL_WORLD.num_image_queries + SMALL_WORLD.num_positives


def test_distractor_ids_are_those_of_the_tars(small_world: pathlib.Path) -> None:
    tars = sorted(small_world.glob("yfcc100m/*.tar"))
    stored = [f"{tar.name}/{name[:-4]}" for tar in tars for name in members(tar)]
    assert len(tars) == SMALL_WORLD.num_tars
    assert all(re.fullmatch(r"world_\d{3}\.tar/\d{8}", image_id) for image_id in stored)
    packed = (small_world / "image_ids" / "distractor_ids.txt.gz").read_bytes()
    listed = gzip.decompress(packed).decode().split()
    assert sorted(stored) == listed
    assert len(set(listed)) == SMALL_WORLD.num_distractors
    mini = (small_world / "image_ids" / "mini_ilias_yfcc100m_ids.txt").read_text().split()
    assert set(mini) < set(listed) and len(set(mini)) == len(mini) == len(listed) // 2


def test_taxonomy_has_three_levels_and_every_object(small_world: pathlib.Path) -> None:
    tree = json.loads((small_world / "misc" / "taxonomy.json").read_text())
    leaves = {
        name: (coarse, mid, fine)
        for coarse, mids in tree.items()
        for mid, fines in mids.items()
        for fine, names in fines.items()
        for name in names
    }
    assert set(leaves) == {path.name for path in small_world.glob("ilias_core/*")}
    assert all(name.rsplit("_", 1)[0] == fine for name, (_, _, fine) in leaves.items())
    assert read_ground_truth(small_world).taxonomy == leaves


def test_all_scale_and_clutter_groups_occur(small_world: pathlib.Path) -> None:
    truth = read_ground_truth(small_world)
    assert set(np.digitize(truth.scale, SCALE_EDGES)) == {0, 1, 2, 3}
    assert set(np.digitize(truth.clutter, CLUTTER_EDGES)) == {0, 1, 2, 3}


def test_boxes_lie_inside_and_cover_the_listed_scale(small_world: pathlib.Path) -> None:
    scales = {row[0]: float(row[1]) for row in id_rows(small_world, "positive_ids.txt")}
    for image_id, (stored, (x, y, width, height)) in core_pictures(small_world).items():
        upright = ImageOps.exif_transpose(stored)
        assert x >= 0 and y >= 0 and width >= 8 and height >= 8
        assert x + width <= upright.width and y + height <= upright.height
        if image_id in scales:
            area = upright.width * upright.height
            assert width * height / area == pytest.approx(scales[image_id], rel=1e-12)


def test_pictures_have_the_sizes_of_the_original(small_world: pathlib.Path) -> None:
    sizes = [ImageOps.exif_transpose(p).size for p, _ in core_pictures(small_world).values()]
    for path in small_world.glob("yfcc100m/*.tar"):
        with tarfile.open(path) as tar:
            for member in tar:
                file = tar.extractfile(member)
                assert file is not None
                sizes.append(ImageOps.exif_transpose(Image.open(io.BytesIO(file.read()))).size)
    assert min(min(size) for size in sizes) >= 96
    assert min(max(size) for size in sizes) >= 160
    assert max(max(size) for size in sizes) <= 500
    assert any(width > height for width, height in sizes)
    assert any(width < height for width, height in sizes)


def object_extent(image: Image.Image) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) of what stands out from a query's plain, softly lit wall."""
    pixels = np.asarray(image.convert("RGB"), np.float32)
    edges = np.zeros(pixels.shape[:2], bool)
    edges[1:] |= np.abs(np.diff(pixels, axis=0)).max(axis=2) > 24
    edges[:, 1:] |= np.abs(np.diff(pixels, axis=1)).max(axis=2) > 24
    rows, columns = np.flatnonzero(edges.any(axis=1)), np.flatnonzero(edges.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]), int(rows[-1])


def test_turned_queries_are_upright_only_after_exif_transpose(small_world: pathlib.Path) -> None:
    queries = {k: v for k, v in core_pictures(small_world).items() if "/query/" in k}
    turned = 0
    for stored, (x, y, width, height) in queries.values():
        box = np.array([x, y, x + width, y + height])
        upright = np.abs(object_extent(ImageOps.exif_transpose(stored)) - box).max()
        assert upright <= 4
        if stored.getexif().get(0x0112) == 6:
            turned += 1
            assert np.abs(object_extent(stored) - box).max() > 10
    assert 0 < turned < len(queries)
    positives = [v for k, v in core_pictures(small_world).items() if "/pos/" in k]
    assert 0 < sum(stored.getexif().get(0x0112) == 6 for stored, _ in positives) < len(positives)
