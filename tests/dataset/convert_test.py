"""Official layout to shards: nothing lost, changed or reordered, and errors that name the place."""

import json
import pathlib
import shutil
import subprocess
import sys
import tarfile

import numpy as np
import pytest
import tensorflow_datasets as tfds
from conversion_fixture import RAW, hashes
from etils import epath
from official_forms import add_file, jpeg

from ilias_jax.dataset import layout, shards, tars
from ilias_jax.dataset.convert import convert
from ilias_jax.dataset.inventory import read_inventory
from ilias_jax.dataset.layout import ImageRecord, inventory_path
from ilias_jax.dataset.tars import ImageFilter
from ilias_jax.errors import UserError


@pytest.fixture
def official(small_world: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
    """A copy of the official layout alone, to be damaged."""
    root = tmp_path / "official"
    for name in ("ilias_core", "image_ids", "yfcc100m"):
        shutil.copytree(small_world / name, root / name)
    return root


def images(world: pathlib.Path) -> tfds.core.DatasetBuilder:
    return tfds.builder_from_directory(world / "ilias" / "1.0.0")


def stored(world: pathlib.Path, split: str) -> list[dict]:
    return list(images(world).as_data_source(split, decoders=RAW))


def first_column(path: pathlib.Path) -> list[str]:
    return [line.split(",")[0] for line in path.read_text().splitlines()]


def assert_unfinished(data_dir: pathlib.Path) -> None:
    assert not (data_dir / "ilias" / "1.0.0" / "dataset_info.json").exists()


@pytest.mark.parametrize(
    ("split", "ids"),
    [("image_query", "image_query_ids.txt"), ("positive", "positive_ids.txt")],
)
def test_core_images_keep_bytes_order_and_boxes(
    small_world: pathlib.Path, split: str, ids: str
) -> None:
    examples = stored(small_world, split)
    expected = first_column(small_world / "image_ids" / ids)
    assert [example["id"].decode() for example in examples] == expected
    for example, image_id in zip(examples, expected, strict=True):
        path = small_world / "ilias_core" / image_id
        assert example["image"] == path.read_bytes()
        box = np.loadtxt(path.with_name(path.stem + "_bbox.txt"), np.float32, ndmin=2)
        np.testing.assert_array_equal(example["boxes"], box)


def test_order_is_that_of_the_id_file_not_of_the_names(official: pathlib.Path) -> None:
    path = official / "image_ids" / "positive_ids.txt"
    lines = path.read_text().splitlines(keepends=True)[::-1]
    path.write_text("".join(lines))
    convert(official, official, num_processes=1)
    found = [example["id"].decode() for example in stored(official, "positive")]
    assert found == [line.split(",")[0] for line in lines]


def test_one_tar_is_one_shard_in_tar_order(small_world: pathlib.Path) -> None:
    tars = sorted((small_world / "yfcc100m").glob("*.tar"))
    info = images(small_world).info.splits["distractor"]
    assert info.num_shards == len(tars)
    examples = iter(stored(small_world, "distractor"))
    for path, length in zip(tars, info.shard_lengths, strict=True):
        with tarfile.open(path) as tar:
            members = tar.getmembers()
            assert length == len(members)
            for member, example in zip(members, examples, strict=False):
                assert example["id"].decode() == f"{path.name}/{member.name.removesuffix('.jpg')}"
                file = tar.extractfile(member)
                assert file is not None and example["image"] == file.read()
                assert example["boxes"].shape == (0, 4)


def test_texts_are_whole_files(small_world: pathlib.Path) -> None:
    builder = tfds.builder_from_directory(small_world / "ilias_text" / "1.0.0")
    found = {e["id"].decode(): e["text"].decode() for e in builder.as_data_source("text_query")}
    ids = first_column(small_world / "image_ids" / "text_query_ids.txt")
    assert list(found) == ids
    assert found == {i: (small_world / "ilias_core" / i).read_text() for i in ids}


def test_text_outside_of_ascii_and_several_boxes_survive(official: pathlib.Path) -> None:
    text_id = first_column(official / "image_ids" / "text_query_ids.txt")[0]
    (official / "ilias_core" / text_id).write_text("Café, 3 € 猫\n", encoding="utf-8")
    query = first_column(official / "image_ids" / "image_query_ids.txt")[0]
    boxes = (official / "ilias_core" / query).with_name(pathlib.Path(query).stem + "_bbox.txt")
    boxes.write_text("1 2 3 4\n5.5 6 7 8\n")
    convert(official, official, num_processes=1)
    builder = tfds.builder_from_directory(official / "ilias_text" / "1.0.0")
    assert next(iter(builder.as_data_source("text_query")))["text"].decode() == "Café, 3 € 猫\n"
    expected = [[1, 2, 3, 4], [5.5, 6, 7, 8]]
    np.testing.assert_array_equal(stored(official, "image_query")[0]["boxes"], expected)


def test_other_members_of_a_tar_are_no_images(official: pathlib.Path) -> None:
    first, second, _ = sorted((official / "yfcc100m").glob("*.tar"))
    with tarfile.open(first, "w") as tar:
        for name in ("folder/7.jpg", "folder/7.txt", "8.jpg.json"):
            add_file(tar, name, jpeg(7))
        folder = tarfile.TarInfo("odd.jpg")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
    report = convert(official, official, num_processes=1)
    examples = stored(official, "distractor")
    assert examples[0]["id"].decode() == f"{first.name}/folder/7"
    assert examples[0]["image"] == jpeg(7)
    assert examples[1]["id"].decode().startswith(second.name)
    assert report.num_others == 2 and "2 other files in the tars were passed over" in report.lines()


HOSTILE = {
    "../escape.jpg": "its name leads outside of the tar",
    "/absolute.jpg": "its name leads outside of the tar",
    "empty.jpg": "empty",
    "text.jpg": "not an image in JPEG PNG GIF WEBP BMP TIFF",
    "bomb.jpg": "30000 x 30000 pixels; at least 1 and at most 178,956,970 are allowed",
    "link.jpg": "a symbolic link, not a file",
    "device.jpg": "a character device, not a file",
    "good.jpg": "another image before it has the same id",
}


def write_hostile_tar(path: pathlib.Path) -> None:
    """One good image and everything that is rejected beside it."""
    place = jpeg().index(b"\xff\xc0") + 5
    bomb = jpeg()[:place] + (30_000).to_bytes(2, "big") * 2 + jpeg()[place + 4 :]
    data = {"empty.jpg": b"", "text.jpg": b"abc", "bomb.jpg": bomb}
    kinds = {"link.jpg": tarfile.SYMTYPE, "device.jpg": tarfile.CHRTYPE}
    with tarfile.open(path, "w") as tar:
        add_file(tar, "good.jpg", jpeg(1))
        for name in HOSTILE:
            if name in kinds:
                member = tarfile.TarInfo(name)
                member.type, member.linkname = kinds[name], "/etc/passwd"
                tar.addfile(member)
            else:
                add_file(tar, name, data.get(name, jpeg(2)))


def test_what_a_hostile_tar_holds_is_in_its_inventory(official: pathlib.Path) -> None:
    tar = sorted((official / "yfcc100m").glob("*.tar"))[1]
    write_hostile_tar(tar)
    around = {path for path in official.parent.rglob("*") if official not in path.parents}
    report = convert(official, official, num_processes=1)
    found = read_inventory(inventory_path(epath.Path(official), "distractor", 1, 3))
    assert found.ids == (f"{tar.name}/good",)
    rejected = [(f"{tar.name}/{name.removesuffix('.jpg')}", why) for name, why in HOSTILE.items()]
    assert found.rejected == tuple(rejected)
    assert report.num_rejected == 8
    assert (
        "3 tars converted, 3 shards of distractors: 28 images stored, 8 rejected" in report.lines()
    )
    assert {path for path in official.parent.rglob("*") if official not in path.parents} == around


def test_images_that_are_lost_on_the_way_stop_the_run(official, monkeypatch) -> None:
    monkeypatch.setattr(tars, "ImageFilter", lambda name: ImageFilter(name, num_images=3))
    with pytest.raises(UserError, match="has 17 images, but 14 were stored and 0 rejected"):
        convert(official, official, num_processes=1)
    assert_unfinished(official)


def test_a_tar_that_is_written_to_meanwhile_is_not_taken(official, monkeypatch) -> None:
    original, path = tars.members, sorted((official / "yfcc100m").glob("*.tar"))[1]

    def grows(tar, is_wanted):
        yield from original(tar, is_wanted)
        if tar == path:
            tar.write_bytes(tar.read_bytes() + bytes(512))

    monkeypatch.setattr(tars, "members", grows)
    with pytest.raises(UserError, match=f"{path} was written to while it was read"):
        convert(official, official, num_processes=1)
    assert_unfinished(official)


def test_every_image_is_in_an_inventory(small_world: pathlib.Path) -> None:
    for split, count in (("image_query", 1), ("positive", 1), ("distractor", 3)):
        found = [
            read_inventory(inventory_path(epath.Path(small_world), split, number, count))
            for number in range(count)
        ]
        listed = [image_id for one in found for image_id in one.ids]
        assert listed == [example["id"].decode() for example in stored(small_world, split)]
        for one in found:
            path = small_world / "ilias" / "1.0.0" / one.shard.file
            assert path.stat().st_size == one.shard.num_bytes
        assert {one.source.file for one in found} <= {"ilias_core"} | {
            f"world_00{number}.tar" for number in range(3)
        }


def test_id_files_and_taxonomy_are_copied_to_another_folder(
    official: pathlib.Path, small_world: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    shutil.copytree(small_world / "misc", official / "misc")
    convert(official, tmp_path / "data", num_processes=1)
    for folder in ("image_ids", "misc"):
        assert hashes(tmp_path / "data" / folder) == hashes(official / folder)
    assert {path.name for path in (tmp_path / "data").iterdir()} == {
        "ilias",
        "ilias_text",
        "image_ids",
        "misc",
    }


def test_damaged_tars_do_not_hold_up_the_others(official: pathlib.Path) -> None:
    first, second, third = sorted((official / "yfcc100m").glob("*.tar"))
    for path in (first, third):
        path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(UserError) as error:
        convert(official, official, num_processes=2)
    lines = str(error.value).splitlines()
    assert lines[0].startswith(f"{first} is damaged at byte 0 (a member claims")
    assert lines[1].startswith(f"{third} is damaged at byte 0 (a member claims")
    assert lines[2] == "2 of 3 tars could not be converted; the others are done"
    assert_unfinished(official)
    names = {path.name for path in (official / "ilias" / "1.0.0").rglob("*") if path.is_file()}
    assert "distractor-00001-of-00003.json" in names
    assert not {"distractor-00000-of-00003.json", "distractor-00002-of-00003.json"} & names


@pytest.mark.parametrize("ids", ["image_query_ids.txt", "positive_ids.txt", "text_query_ids.txt"])
def test_a_missing_listed_file_is_named(official: pathlib.Path, ids: str) -> None:
    lost = official / "ilias_core" / first_column(official / "image_ids" / ids)[-1]
    lost.unlink()
    with pytest.raises(UserError, match=f"{lost} is missing, but image_ids/ lists it"):
        convert(official, official, num_processes=1)
    assert_unfinished(official)


def test_a_missing_id_file_is_named(official: pathlib.Path) -> None:
    path = official / "image_ids" / "text_query_ids.txt"
    path.unlink()
    with pytest.raises(UserError, match=f"{path}: no such file"):
        convert(official, official, num_processes=1)


@pytest.mark.parametrize("line", ["5 6 seven 8", "5 6 7", "5 6 7 8 9", ""])
def test_a_malformed_box_is_named_with_its_line(official: pathlib.Path, line: str) -> None:
    path = next(official.glob("ilias_core/*/pos/*_bbox.txt"))
    path.write_text(f"1 2 3 4\n{line}\n")
    with pytest.raises(UserError) as error:
        convert(official, official, num_processes=1)
    assert str(error.value) == f"{path}:2: {line!r} is no box; expected `x y w h`"
    assert_unfinished(official)


def test_without_tars_there_is_nothing_to_convert(official: pathlib.Path) -> None:
    shutil.rmtree(official / "yfcc100m")
    with pytest.raises(UserError, match="yfcc100m holds no .tar file"):
        convert(official, official, num_processes=1)
    assert not (official / "ilias").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("cut", "is damaged .*download it again"),
        ("cut between members", "is damaged .*no end of archive.*download it again"),
        ("cut in a header", "is damaged .*download it again"),
        ("empty", "holds no .jpg"),
    ],
)
def test_a_damaged_tar_is_named(official: pathlib.Path, content: str, message: str) -> None:
    path = sorted((official / "yfcc100m").glob("*.tar"))[1]
    if content == "cut":
        path.write_bytes(path.read_bytes()[:2000])
    elif content.startswith("cut"):
        with tarfile.open(path) as tar:
            third = tar.getmembers()[2].offset
        path.write_bytes(path.read_bytes()[: third + (100 if "header" in content else 0)])
    else:
        tarfile.open(path, "w").close()
    with pytest.raises(UserError, match=f"{path} {message}"):
        convert(official, official, num_processes=1)
    assert_unfinished(official)


def test_a_shard_that_fails_midway_has_no_final_name(tmp_path: pathlib.Path) -> None:
    def records():
        yield ImageRecord("a/pos/P0.jpg", b"first")
        raise RuntimeError("the source broke off")

    with pytest.raises(RuntimeError, match="broke off"):
        shards.write_image_shard(tmp_path, "positive", 0, 1, records())
    assert not list(layout.images_folder(tmp_path).iterdir())
    assert shards.write_image_shard(tmp_path, "positive", 0, 1, [ImageRecord("a/pos/P0.jpg", b"x")])
    names = [path.name for path in layout.images_folder(tmp_path).iterdir()]
    assert names == ["ilias-positive.array_record-00000-of-00001"]


def test_tensorflow_is_never_imported(small_world: pathlib.Path, tmp_path: pathlib.Path) -> None:
    program = """
import json, pathlib, sys
from etils import epath
import tensorflow_datasets as tfds
from ilias_jax.dataset import layout, shards
from ilias_jax.dataset.convert import convert
from ilias_jax.dataset.reader import IliasDataset
from ilias_jax.dataset.layout import ImageRecord
convert(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[3]), 1)
tfds.builder_from_directory(pathlib.Path(sys.argv[3]) / "ilias" / "1.0.0")
dataset = IliasDataset(epath.Path(sys.argv[1]))
dataset.check()
shard = dataset.shards("positive")[0]
records = list(dataset.read(shard, lambda record: record, 1))
counts = shards.write_image_shard(pathlib.Path(sys.argv[2]), "positive", 0, 1, records)
folder = layout.images_folder(pathlib.Path(sys.argv[2]))
shards.write_metadata(folder, shards.image_features(), {"positive": [counts]}, "copy")
print(json.dumps([counts[0], len(dataset.text_queries()), "tensorflow" in sys.modules]))
"""
    command = [sys.executable, "-c", program, str(small_world), str(tmp_path), str(tmp_path / "x")]
    root = pathlib.Path(__file__).parents[2]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, check=True)
    assert json.loads(done.stdout.splitlines()[-1]) == [14, 6, False]
    assert [e["id"] for e in stored(tmp_path, "positive")] == [
        e["id"] for e in stored(small_world, "positive")
    ]
