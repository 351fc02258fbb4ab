"""Mini as a selection: by key or full id, over official and Hugging Face tars, read sparingly."""

import pathlib
import shutil

import color_world
import inventories
import pytest
from etils import epath

from ilias_jax.dataset.layout import ImageRecord, Split
from ilias_jax.dataset.reader import ChosenRecords, IliasDataset
from ilias_jax.errors import UserError

KEYS = ["00", "01", "folder/02", "03", "04", "05"]
TARS = {"official": ["y_000.tar", "y_001.tar"], "hugging face": []}
TARS["hugging face"] = ["mini_ilias_yfcc100m-000000.tar", "mini_ilias_yfcc100m-000001.tar"]
SELECTED = ["01", "folder/02", "05"]  # two of the first shard, one of the second


def stored(tars: str) -> list[str]:
    """Ids of the distractors, three a shard."""
    return [f"{TARS[tars][i // 3]}/{key}" for i, key in enumerate(KEYS)]


def write(folder: pathlib.Path, tars: str, lines: list[str], *, has_inventories: bool) -> None:
    """A dataset with a mini list."""
    ids = stored(tars)
    color_world.write(
        folder,
        {"mug/query/Q000_00.jpg": 0},
        {"mug/pos/P000_00.jpg": (0, 0.5, 0)},
        [dict.fromkeys(part, 1) for part in (ids[:3], ids[3:])],
        {"mug/query/T000.txt": 0},
    )
    path = folder / "image_ids" / "mini_ilias_yfcc100m_ids.txt"
    path.write_text("".join(f"{line}\n" for line in lines))
    inventories.remove(folder)
    if has_inventories:
        inventories.write(folder)


def opened(folder: pathlib.Path) -> IliasDataset:
    return IliasDataset(epath.Path(folder), "mini")


def read(dataset: IliasDataset, split: Split = "distractor") -> list[ImageRecord]:
    return [
        record
        for shard in dataset.shards(split)
        for record in dataset.read(shard, lambda record: record, 2)
    ]


@pytest.mark.parametrize("has_inventories", [True, False])
@pytest.mark.parametrize("form", ["key", "full id"])
@pytest.mark.parametrize("tars", TARS)
def test_mini_is_the_listed_images_whatever_their_tar(
    tmp_path: pathlib.Path, tars: str, form: str, has_inventories: bool
) -> None:
    official = dict(zip(KEYS, stored("official"), strict=True))
    lines = [key if form == "key" else official[key] for key in reversed(SELECTED)]
    write(tmp_path, tars, lines, has_inventories=has_inventories)
    records = read(opened(tmp_path))
    assert [r.image_id for r in records] == [
        i for i in stored(tars) if i.split("/", 1)[1] in SELECTED
    ]
    assert [record.number for record in records] == [1, 2, 2]
    assert len(read(opened(tmp_path), "positive")) == 1


@pytest.fixture
def touched(monkeypatch) -> list[tuple[str, int]]:
    """(id, number) of every record that is read."""
    found: list[tuple[str, int]] = []
    original = ChosenRecords.__getitem__

    def spy(self: ChosenRecords, place: int) -> ImageRecord:
        record = original(self, place)
        found.append((record.image_id, record.number))
        return record

    monkeypatch.setattr(ChosenRecords, "__getitem__", spy)
    return found


def test_what_is_not_selected_is_never_read(tmp_path: pathlib.Path, touched) -> None:
    write(tmp_path, "official", SELECTED, has_inventories=True)
    read(opened(tmp_path))
    ids = stored("official")
    assert sorted(touched) == [(ids[1], 1), (ids[2], 2), (ids[5], 2)]
    inventories.remove(tmp_path)
    touched.clear()
    read(opened(tmp_path))
    assert len(touched) == 6  # without inventory there is no other way


def test_a_shard_of_which_nothing_is_selected_is_not_opened(
    tmp_path: pathlib.Path, monkeypatch
) -> None:
    write(tmp_path, "official", ["05"], has_inventories=True)
    dataset = opened(tmp_path)
    first, second = dataset.shards("distractor")
    (tmp_path / "ilias" / "1.0.0" / first.file_name).unlink()
    assert list(dataset.read(first, lambda record: record, 1)) == []
    assert [r.image_id for r in dataset.read(second, lambda r: r, 1)] == ["y_001.tar/05"]


def test_full_reads_no_inventory(tmp_path: pathlib.Path, touched) -> None:
    write(tmp_path, "official", ["05"], has_inventories=True)
    shutil.rmtree(tmp_path / "ilias" / "1.0.0" / "inventory")
    dataset = IliasDataset(epath.Path(tmp_path))
    assert [record.image_id for record in read(dataset)] == stored("official")


def test_an_inventory_of_another_file_is_refused(tmp_path: pathlib.Path) -> None:
    write(tmp_path, "official", SELECTED, has_inventories=True)
    path = inventories.path_of(tmp_path, "distractor", 1)
    inventories.path_of(tmp_path, "positive", 0).copy(path, overwrite=True)
    with pytest.raises(UserError, match=rf"{path} is not of ilias-distractor.*-00001-of-00002: it"):
        read(opened(tmp_path))


def test_an_inventory_with_other_ids_is_refused(tmp_path: pathlib.Path) -> None:
    write(tmp_path, "official", SELECTED, has_inventories=True)
    path = inventories.path_of(tmp_path, "distractor", 1)
    text = path.read_text().replace("04", "99").replace("05", "04").replace("99", "05")
    path.write_text(text)
    message = r"00001-of-00002: record 1 is 'y_001.tar/04', its inventory says 'y_001.tar/05'; conv"
    with pytest.raises(UserError, match=message):
        read(opened(tmp_path))
