"""Conversions that go on: what is done is not touched, what changed is done again."""

import pathlib
import random
import shutil
import subprocess
import sys

import pytest
from conversion_fixture import IMAGES, hashes, mtimes, official_copy, stored
from official_forms import jpeg, tar_of

from ilias_jax.dataset import convert as module
from ilias_jax.dataset import inventory, shards
from ilias_jax.dataset.convert import convert
from ilias_jax.dataset.inventory import ShardSlot
from ilias_jax.errors import UserError

SHARD = IMAGES + "/ilias-distractor.array_record-{:05d}-of-{:05d}"


@pytest.fixture
def root(small_world, tmp_path):
    return official_copy(small_world, tmp_path / "root")


@pytest.fixture
def data(root, tmp_path):
    """A finished data folder."""
    convert(root, tmp_path / "data", 1)
    return tmp_path / "data"


def undisturbed(root: pathlib.Path) -> dict[str, str]:
    """What a run into an empty folder gives."""
    fresh = root.parent / "fresh"
    convert(root, fresh, 1)
    return hashes(fresh)


def changed(before: dict[str, int], after: dict[str, int]) -> set[str]:
    return {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}


def test_a_second_run_writes_nothing(root, data):
    before = mtimes(data)
    report = convert(root, data, 1)
    assert mtimes(data) == before
    assert (report.num_converted, report.num_shards, report.num_left) == (0, 3, 0)


def test_a_tar_that_changed_is_converted_again(root, data):
    before = mtimes(data)
    tar_of(root / "yfcc100m" / "world_001.tar", [("new.jpg", jpeg(5))])
    report = convert(root, data, 1)
    assert report.num_converted == 1
    assert changed(before, mtimes(data)) == {
        SHARD.format(1, 3),
        IMAGES + "/inventory/distractor-00001-of-00003.json",
        IMAGES + "/dataset_info.json",
        IMAGES + "/features.json",
    }
    assert hashes(data) == undisturbed(root)


def test_a_core_image_or_box_that_changed_is_converted_again(root, data):
    before = mtimes(data)
    image = next((root / "ilias_core").glob("*/pos/*.jpg"))
    image.write_bytes(jpeg(1))
    convert(root, data, 1)
    expected = {
        IMAGES + "/ilias-positive.array_record-00000-of-00001",
        IMAGES + "/inventory/positive-00000-of-00001.json",
        IMAGES + "/dataset_info.json",
        IMAGES + "/features.json",
    }
    assert changed(before, mtimes(data)) == expected
    before = mtimes(data)
    image.with_name(image.stem + "_bbox.txt").write_text("1 2 3 4\n")
    convert(root, data, 1)
    assert changed(before, mtimes(data)) == expected
    assert hashes(data) == undisturbed(root)


def test_a_text_or_id_file_that_changed_is_taken_over(root, data):
    next((root / "ilias_core").glob("*/query/T*.txt")).write_text("another description")
    path = root / "image_ids" / "positive_ids.txt"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[::-1]))
    convert(root, data, 1)
    assert hashes(data) == undisturbed(root)


@pytest.mark.parametrize(
    "lost",
    [
        SHARD.format(2, 3),
        IMAGES + "/inventory/distractor-00000-of-00003.json",
        IMAGES + "/ilias-image_query.array_record-00000-of-00001",
        IMAGES + "/dataset_info.json",
        "ilias_text/1.0.0/dataset_info.json",
        "ilias_text/1.0.0/ilias_text-text_query.array_record-00000-of-00001",
        "misc/taxonomy.json",
    ],
)
def test_what_is_gone_is_made_again(root, data, lost):
    expected = hashes(data)
    (data / lost).unlink()
    convert(root, data, 1)
    assert hashes(data) == expected


def test_a_cut_shard_is_made_again(root, data):
    expected = hashes(data)
    shard = data / SHARD.format(1, 3)
    shard.write_bytes(shard.read_bytes()[:-100])
    assert convert(root, data, 1).num_converted == 1
    assert hashes(data) == expected


def add_tars(root):
    for name in ("aaa.tar", "world_000a.tar", "zzz.tar"):
        tar_of(root / "yfcc100m" / name, [(f"{name[:-4]}.jpg", jpeg(len(name)))])


def test_added_tars_rename_finished_shards(root, data):
    old = {number: (data / SHARD.format(number, 3)).stat().st_ino for number in range(3)}
    add_tars(root)
    report = convert(root, data, 1)
    assert (report.num_converted, report.num_moved, report.num_shards) == (3, 3, 6)
    assert "3 finished shards were renumbered, for tars were added" in report.lines()
    for before, after in {0: 1, 1: 3, 2: 4}.items():
        assert (data / SHARD.format(after, 6)).stat().st_ino == old[before]
    assert hashes(data) == undisturbed(root)
    assert [i.split("/")[0] for i, _, _ in stored(data, "distractor")][0] == "aaa.tar"


def test_tars_may_be_converted_and_removed_a_few_at_a_time(root, data):
    expected = stored(data, "distractor")
    for path in (root / "yfcc100m").iterdir():
        path.unlink()
    tar_of(root / "yfcc100m" / "zzz.tar", [("z.jpg", jpeg(9))])
    report = convert(root, data, 1)
    assert (report.num_absent, report.num_shards) == (3, 4)
    assert any("3 shards are kept whose tars are not there" in line for line in report.lines())
    assert stored(data, "distractor") == [*expected, ("zzz.tar/z", jpeg(9), [])]
    # As the report says, a shard can be left out.
    (data / IMAGES / "inventory" / "distractor-00000-of-00004.json").unlink()
    convert(root, data, 1)
    assert {i.split("/")[0] for i, _, _ in stored(data, "distractor")} == {
        "world_001.tar",
        "world_002.tar",
        "zzz.tar",
    }


def test_a_run_of_some_tars_leaves_the_others_for_later(root, data, tmp_path):
    expected, parts = hashes(data), tmp_path / "parts"
    report = convert(root, parts, 1, tars="1:")
    assert (report.num_converted, report.num_left) == (2, 1)
    assert "1 tars are still to be converted before it can be read" in report.lines()
    assert not (parts / IMAGES / "dataset_info.json").exists()
    assert convert(root, parts, 1, tars="world_000.tar").num_left == 0
    assert hashes(parts) == expected


def test_both_forms_of_the_distractors_do_not_mix(root, data):
    name = "mini_ilias_yfcc100m-000000.tar"
    mini = tar_of(root.parent / name, [("1.jpg", jpeg())])
    before = mtimes(data)
    with pytest.raises(UserError, match="hold the same images under different ids"):
        convert(root, data, 1, distractor_paths=[mini])
    assert mtimes(data) == before


def leave_things(data: pathlib.Path) -> list[pathlib.Path]:
    """Files as killed runs leave them."""
    made = []
    for folder, name in (
        (IMAGES, "ilias-x"),
        (IMAGES + "/inventory", "y.json"),
        ("ilias_text/1.0.0", "z"),
    ):
        made.append(data / folder / f".{name}.{'0a' * 16}.tmp")
        made[-1].write_bytes(b"half")
    (data / IMAGES / f".metadata.{'1b' * 16}.tmp").mkdir()
    (data / IMAGES / f".metadata.{'1b' * 16}.tmp" / "features.json").write_text("{")
    return [*made, data / IMAGES / f".metadata.{'1b' * 16}.tmp"]


def test_leftovers_of_killed_runs_go_and_other_files_stay(root, data):
    left = leave_things(data)
    mine = [data / IMAGES / name for name in (".notes.tmp", "README", ".x.abc.tmp")]
    for path in mine:
        path.write_text("mine")
    (data / SHARD.format(0, 9)).write_bytes(b"of a killed run with other tars")
    convert(root, data, 1)
    assert not [path for path in left if path.exists()]
    assert all(path.read_text() == "mine" for path in mine)
    assert not (data / SHARD.format(0, 9)).exists()


def test_files_of_a_run_at_work_stay(root, data):
    left = leave_things(data)
    with module.work_in(data / IMAGES):
        convert(root, data, 1)
        assert all(path.exists() for path in left)
        add_tars(root)
        with pytest.raises(UserError, match="must be renamed, but another run works there"):
            convert(root, data, 1)
    convert(root, data, 1)
    assert not [path for path in left if path.exists()]


def test_several_processes_write_the_bytes_of_one(root, data, tmp_path):
    convert(root, tmp_path / "parallel", 2)
    assert hashes(tmp_path / "parallel") == hashes(data)


class KilledError(BaseException):
    """Ends a move where a kill might."""


def dies_at(step: int, root: pathlib.Path, data: pathlib.Path, monkeypatch) -> bool:
    """Runs a conversion that dies after `step` calls that change files; False if it ends first."""
    left = step

    def mortal(function):
        def call(*args, **kwargs):
            nonlocal left
            if left == 0:
                raise KilledError
            left -= 1
            return function(*args, **kwargs)

        return call

    with monkeypatch.context() as patch:
        for name in ("replace", "unlink"):
            patch.setattr(pathlib.Path, name, mortal(getattr(pathlib.Path, name)))
        patch.setattr(inventory.Inventory, "write", mortal(inventory.Inventory.write))
        patch.setattr(module, "remove_temporary", lambda data_dir: None)  # nobody cleans up
        try:
            convert(root, data, 1)
        except KilledError:
            return True
    return False


@pytest.mark.parametrize("replaced", [False, True])
def test_a_run_that_dies_while_renaming_loses_nothing(root, data, tmp_path, monkeypatch, replaced):
    add_tars(root)
    if replaced:  # three tars again: shards move into each other's places
        for name in ("world_001.tar", "zzz.tar", "world_000a.tar"):
            (root / "yfcc100m" / name).unlink()
        (data / IMAGES / "inventory" / "distractor-00001-of-00003.json").unlink()
    expected, step = undisturbed(root), 0
    while True:
        copy = tmp_path / f"copy{step}"
        shutil.copytree(data, copy)
        if not dies_at(step, root, copy, monkeypatch):
            break
        convert(root, copy, 1)
        assert hashes(copy) == expected, step
        step += 1
    assert step > 8


def test_moves_up_and_down_never_meet_a_shard_that_is_to_be_moved(tmp_path):
    """Random sets of tars, replaced at random: each finished shard keeps its own images."""
    rng = random.Random(4)
    for _ in range(300):
        old = sorted(rng.sample(range(12), rng.randrange(1, 9)))
        kept = [n for n in old if rng.random() < 0.7]
        new = sorted({*kept, *rng.sample(range(12), rng.randrange(9))})
        slot = lambda i, total: ShardSlot(tmp_path, "distractor", i, total)  # noqa: E731
        now = {n: slot(old.index(n), len(old)) for n in kept}
        to_be = {n: slot(new.index(n), len(new)) for n in kept}
        at = {slot: n for n, slot in now.items()}
        for source, target in sorted(
            [(now[n], to_be[n]) for n in kept if now[n] != to_be[n]], key=module._move_order
        ):
            assert target not in at
            at[target] = at.pop(source)
        assert at == {slot: n for n, slot in to_be.items()}


def test_a_full_disk_is_a_message(root, tmp_path):
    """A file-size limit stands for a full disk: the same calls fail."""
    program = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000));"
        "from ilias_jax import cli; cli.main(sys.argv[1:])"
    )
    words = ["convert", "--root", str(root), "--data_dir", str(tmp_path / "d"), "--processes", "1"]
    done = subprocess.run(
        [sys.executable, "-c", program, *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "error: " in done.stderr and "cannot be written" in done.stderr, done.stderr
    assert "File too large" in done.stderr and "Traceback" not in done.stderr
    assert not list((tmp_path / "d").rglob(".*.tmp"))
    assert not shards.has_metadata(tmp_path / "d" / IMAGES)
