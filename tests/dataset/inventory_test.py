"""Inventories: what is written is read, and what is no inventory is named."""

import json
import pathlib

import pytest
from etils import epath

from ilias_jax.dataset.inventory import Inventory, ShardFile, Source, read_inventory
from ilias_jax.dataset.layout import inventory_path
from ilias_jax.errors import UserError

EXAMPLE = Inventory(
    source=Source("yfcc_000.tar", 10_240, "ab" * 32),
    shard=ShardFile("ilias-distractor.array_record-00003-of-01000", 70_000, 2, 5_000),
    ids=("yfcc_000.tar/0001", "yfcc_000.tar/größe"),
    rejected=(("yfcc_000.tar/0002", "empty"),),
)


def written(folder: pathlib.Path) -> epath.Path:
    path = inventory_path(epath.Path(folder), "distractor", 3, 1000)
    EXAMPLE.write(path)
    return path


def test_an_inventory_comes_back_as_written(tmp_path):
    path = written(tmp_path)
    assert path == tmp_path / "ilias" / "1.0.0" / "inventory" / "distractor-00003-of-01000.json"
    assert read_inventory(path) == EXAMPLE
    document = json.loads(path.read_text())
    assert document["num_images"] == 3
    assert document["rejected"] == [["yfcc_000.tar/0002", "empty"]]


def test_a_missing_inventory_is_named(tmp_path):
    with pytest.raises(UserError, match="nothing.json is missing; `ilias-jax convert`"):
        read_inventory(epath.Path(tmp_path / "nothing.json"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (None, "broken JSON .*; the file ends too early; remove it and run `ilias-jax convert`"),
        ({"format": "ilias-jax inventory 2"}, "expected 'ilias-jax inventory 1'"),
        ({"num_images": 4}, "num_images is 4, but 2 ids and 1 rejected are listed"),
        ({"ids": ["one"]}, "1 ids for 2 records"),
        ({"source": {"file": "a"}}, "missing 2 required"),
        ({"rejected": ["abc"]}, "is no inventory"),
    ],
)
def test_what_is_no_inventory_is_named(tmp_path, change, message):
    path = written(tmp_path)
    text = path.read_text()
    path.write_text(text[:50] if change is None else json.dumps({**json.loads(text), **change}))
    with pytest.raises(UserError, match=message) as error:
        read_inventory(path)
    assert str(error.value).startswith(str(path))


def test_a_deep_one_is_named(tmp_path):
    path = tmp_path / "deep.json"
    path.write_text("[" * 100_000)
    with pytest.raises(UserError, match="deep.json: JSON that is nested too deeply; remove it"):
        read_inventory(epath.Path(path))
