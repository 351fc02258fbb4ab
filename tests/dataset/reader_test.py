"""The reader: every record once and in stored order, and missing data explained."""

import pathlib
import shutil
import threading
import time

import pytest
from conftest import SMALL_WORLD
from etils import epath

from ilias_jax.dataset.layout import IMAGE_SPLITS, ImageRecord, Split, Subset, follows_exif
from ilias_jax.dataset.reader import IliasDataset
from ilias_jax.errors import UserError


def opened(world: pathlib.Path, subset: Subset = "full") -> IliasDataset:
    return IliasDataset(epath.Path(world), subset)


def same(record: ImageRecord) -> ImageRecord:
    return record


def ids_of(dataset: IliasDataset, split: Split, num_threads: int = 2) -> list[str]:
    return [
        record.image_id
        for shard in dataset.shards(split)
        for record in dataset.read(shard, same, num_threads)
    ]


def listed(world: pathlib.Path, name: str) -> list[str]:
    lines = (world / "image_ids" / name).read_text().splitlines()
    return [line.split(",")[0] for line in lines]


@pytest.fixture
def broken(small_world: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
    """A copy of the converted world, to be damaged."""
    for name in ("ilias", "ilias_text", "image_ids"):
        shutil.copytree(small_world / name, tmp_path / "world" / name)
    return tmp_path / "world"


def test_shards_are_listed_in_order_with_their_sizes(small_world: pathlib.Path) -> None:
    dataset = opened(small_world)
    dataset.check()
    shards = dataset.shards("distractor")
    assert [shard.number for shard in shards] == list(range(SMALL_WORLD.num_tars))
    assert {shard.num_shards for shard in shards} == {SMALL_WORLD.num_tars}
    assert sum(shard.num_records for shard in shards) == SMALL_WORLD.num_distractors
    assert [shard.num_records for shard in shards] == [14, 13, 13]
    for shard in shards:
        path = small_world / "ilias" / "1.0.0" / shard.file_name
        assert shard.num_bytes == path.stat().st_size
        assert f"distractor.array_record-{shard.number:05d}-of-" in shard.file_name


@pytest.mark.parametrize("num_threads", [1, 5])
def test_every_record_comes_once_and_in_order(small_world: pathlib.Path, num_threads: int) -> None:
    dataset = opened(small_world)
    assert ids_of(dataset, "positive", num_threads) == listed(small_world, "positive_ids.txt")
    assert ids_of(dataset, "image_query", num_threads) == listed(small_world, "image_query_ids.txt")
    expected = [
        f"world_{tar:03d}.tar/{number:08d}"
        for tar in range(SMALL_WORLD.num_tars)
        for number in range(tar, SMALL_WORLD.num_distractors, SMALL_WORLD.num_tars)
    ]
    assert ids_of(dataset, "distractor", num_threads) == expected


def test_slow_records_do_not_change_the_order(small_world: pathlib.Path) -> None:
    dataset = opened(small_world)
    threads = set()

    def slow_at_first(record: ImageRecord) -> int:
        time.sleep(0.02 if record.number % 4 == 0 else 0.0)
        threads.add(threading.get_ident())
        return record.number

    found = list(dataset.read(dataset.shards("positive")[0], slow_at_first, 4))
    assert found == list(range(SMALL_WORLD.num_positives))
    assert len(threads) > 1  # otherwise nothing was tried


def test_a_transform_that_fails_is_heard(small_world: pathlib.Path) -> None:
    dataset = opened(small_world)

    def fails_at_third(record: ImageRecord) -> int:
        if record.number == 2:
            raise ArithmeticError(f"cannot do {record.image_id}")
        return record.number

    reading = dataset.read(dataset.shards("positive")[0], fails_at_third, 3)
    bad = listed(small_world, "positive_ids.txt")[2]
    with pytest.raises(ArithmeticError, match=bad):
        list(reading)


@pytest.mark.parametrize("split", IMAGE_SPLITS)
def test_read_one_is_the_streamed_record(small_world: pathlib.Path, split: Split) -> None:
    dataset = opened(small_world)
    for shard in dataset.shards(split):
        records = list(dataset.read(shard, same, 2))
        assert [record.number for record in records] == list(range(shard.num_records))
        for number in (0, shard.num_records - 1):
            one = dataset.read_one(shard, number)
            assert one == records[number]
            assert len(one.boxes) == (split != "distractor") and one.jpeg[:2] == b"\xff\xd8"


def test_mini_reads_the_listed_distractors_alone(small_world: pathlib.Path) -> None:
    full, mini = opened(small_world), opened(small_world, "mini")
    mini.check()
    expected = listed(small_world, "mini_ilias_yfcc100m_ids.txt")
    found = ids_of(mini, "distractor")
    assert found == [i for i in ids_of(full, "distractor") if i in set(expected)]
    assert sorted(found) == sorted(expected) and len(found) == 20
    for split in ("image_query", "positive"):
        assert ids_of(mini, split) == ids_of(full, split)


def test_numbers_of_selected_records_are_their_stored_places(small_world: pathlib.Path) -> None:
    mini = opened(small_world, "mini")
    for shard in mini.shards("distractor"):
        for record in mini.read(shard, same, 2):
            assert mini.read_one(shard, record.number) == record


def test_text_queries_are_in_stored_order(small_world: pathlib.Path) -> None:
    queries = opened(small_world).text_queries()
    assert [query.query_id for query in queries] == listed(small_world, "text_query_ids.txt")
    for query in queries:
        assert query.text == (small_world / "ilias_core" / query.query_id).read_text()


@pytest.mark.parametrize(
    "name",
    [
        "ilias/1.0.0/ilias-distractor.array_record-00001-of-00003",
        "ilias/1.0.0/ilias-positive.array_record-00000-of-00001",
        "ilias_text/1.0.0/ilias_text-text_query.array_record-00000-of-00001",
    ],
)
def test_a_missing_shard_file_is_named(broken: pathlib.Path, name: str) -> None:
    (broken / name).unlink()
    with pytest.raises(UserError, match=f"{broken / name} is missing.*vrg.fel.cvut.cz"):
        opened(broken).check()


@pytest.mark.parametrize("name", ["ilias", "ilias_text"])
def test_missing_metadata_is_explained(broken: pathlib.Path, name: str) -> None:
    folder = broken / name / "1.0.0"
    (folder / "dataset_info.json").unlink()
    with pytest.raises(UserError, match=f"{folder}, which has no dataset_info.json.*ilias-jax"):
        opened(broken).check()


def test_an_empty_or_absent_folder_is_explained(tmp_path: pathlib.Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(UserError, match="dataset.data_dir: image shards.*does not exist"):
            opened(folder).check()


def test_a_missing_mini_list_is_explained(broken: pathlib.Path) -> None:
    path = broken / "image_ids" / "mini_ilias_yfcc100m_ids.txt"
    path.unlink()
    opened(broken).check()
    with pytest.raises(UserError, match=f"dataset.subset=mini needs {path}"):
        opened(broken, "mini").check()


def test_only_core_images_follow_exif() -> None:
    assert [follows_exif(split) for split in ("image_query", "positive", "distractor")] == [
        True,
        True,
        False,
    ]


def _flip_a_byte(path: pathlib.Path, of: bytes) -> None:
    data = bytearray(path.read_bytes())
    data[data.index(of)] ^= 0x55
    path.write_bytes(data)


@pytest.mark.parametrize("split", IMAGE_SPLITS)
def test_a_flipped_byte_of_an_image_is_named(broken: pathlib.Path, split: Split) -> None:
    path = next((broken / "ilias" / "1.0.0").glob(f"ilias-{split}.*-00000-of-*"))
    dataset = opened(broken)
    shard = dataset.shards(split)[0]
    last = ids_of(dataset, split)[shard.num_records - 1]
    _flip_a_byte(path, last.encode())
    message = f"{path}: record {shard.num_records - 1} is damaged .*; convert or copy the shard"
    with pytest.raises(UserError, match=message):
        list(dataset.read(shard, same, 2))
    with pytest.raises(UserError, match=message):
        dataset.read_one(shard, shard.num_records - 1)
    with pytest.raises(UserError, match=message):
        dataset.ids(split)


def test_a_flipped_byte_of_a_text_is_named(broken: pathlib.Path) -> None:
    (path,) = (broken / "ilias_text" / "1.0.0").glob("*.array_record-*")
    _flip_a_byte(path, opened(broken).text_queries()[1].query_id.encode())
    with pytest.raises(UserError, match=f"{path}: record 1 is damaged"):
        opened(broken).text_queries()


@pytest.mark.parametrize("damage", ["cut", "zeros", "another split's"])
@pytest.mark.parametrize("split", ["positive", "distractor"])
def test_a_damaged_shard_is_named(broken: pathlib.Path, split: Split, damage: str) -> None:
    path = sorted((broken / "ilias" / "1.0.0").glob(f"ilias-{split}*"))[0]
    other = sorted((broken / "ilias" / "1.0.0").glob("ilias-image_query*"))[0]
    content = path.read_bytes()
    path.write_bytes(
        {
            "cut": content[: len(content) // 2],
            "zeros": bytes(len(content)),
            "another split's": other.read_bytes(),
        }[damage]
    )
    dataset = opened(broken)
    message = "holds 8 records, dataset_info.json says" if "another" in damage else "is damaged"
    with pytest.raises(UserError, match=f"{path} {message}"):
        if split == "positive":
            dataset.ids(split)
        else:
            list(dataset.read(dataset.shards(split)[0], same, 1))


@pytest.mark.parametrize("name", ["ilias/1.0.0/dataset_info.json", "ilias/1.0.0/features.json"])
def test_damaged_metadata_is_named(broken: pathlib.Path, name: str) -> None:
    path = broken / name
    path.write_text(path.read_text()[:40])
    with pytest.raises(UserError, match=f"{path}, line .*; write the dataset again"):
        opened(broken).check()
