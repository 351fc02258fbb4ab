"""Counting found distractors against a list: the same numbers as with Python's counters."""

import collections
import pathlib
import random

import numpy as np
import pytest
from etils import epath

from ilias_jax.dataset.id_lists import read_id_list
from ilias_jax.dataset.validation import IdCounter

LISTED = ["a.tar/0", "a.tar/1", "a.tar/2", "b.tar/0", "b.tar/1", "b.tar/2"]


def tally(
    folder: pathlib.Path, listed: list[str] | None, *, is_selection: bool = False
) -> IdCounter:
    if listed is None:
        return IdCounter(None, is_selection=is_selection)
    (folder / "ids.txt").write_text("".join(f"{line}\n" for line in listed))
    return IdCounter(read_id_list(epath.Path(folder / "ids.txt")), is_selection=is_selection)


def test_found_missing_extra_repeated_and_rejected_by_hand(tmp_path: pathlib.Path) -> None:
    shards = [["a.tar/0", "x.tar/5", "a.tar/1"], ["x.tar/5", "x.tar/6", "a.tar/1"], []]
    counted = tally(tmp_path, LISTED)
    for ids in shards:
        counted.add(ids)
    assert counted.add_rejected(["b.tar/0", "a.tar/0", "z.tar/9"]).tolist() == [True, True, False]
    assert (counted.num_listed, counted.num_found, counted.num_unselected) == (6, 6, 0)
    assert counted.num_missing == 3  # a/2, b/1, b/2
    assert counted.missing_names(2) == ["a.tar/2", "b.tar/1"]
    assert counted.num_rejected == 1  # a/0 was found as well
    assert counted.num_extra == 3 and counted.num_repeated == 2
    assert counted.extra_names(shards, 9) == ["x.tar/5", "x.tar/5", "x.tar/6"]
    assert counted.repeated_names(shards, 9) == ["x.tar/5", "a.tar/1", "x.tar/5", "a.tar/1"]
    assert counted.repeated_names(shards, 1) == ["x.tar/5"]


def test_a_selection_has_no_extra_images(tmp_path: pathlib.Path) -> None:
    counted = tally(tmp_path, ["1", "b.tar/2", "9"], is_selection=True)
    shards = [["a.tar/0", "a.tar/1"], ["b.tar/1", "b.tar/2"], ["c.tar/4", "c.tar/4"]]
    for ids in shards:
        counted.add(ids)
    assert (counted.num_found, counted.num_unselected, counted.num_extra) == (3, 3, 0)
    assert counted.missing_names(9) == ["9"]
    # One line of the list may stand for one image only.
    assert counted.num_repeated == 1
    assert counted.repeated_names(shards, 9) == ["a.tar/1", "b.tar/1"]


def test_without_a_list_repeats_are_still_found(tmp_path: pathlib.Path) -> None:
    counted = tally(tmp_path, None)
    shards = [["a.tar/0", "a.tar/1"], ["a.tar/1"]]
    for ids in shards:
        counted.add(ids)
    assert counted.add_rejected(["a.tar/7"]).tolist() == [True]
    assert (counted.num_found, counted.num_missing, counted.num_extra) == (3, 0, 0)
    assert counted.num_repeated == 1
    assert counted.repeated_names(shards, 9) == ["a.tar/1", "a.tar/1"]
    assert counted.extra_names(shards, 9) == counted.missing_names(9) == []


@pytest.mark.parametrize("seed", range(5))
def test_random_shards_count_as_counters_count(tmp_path: pathlib.Path, seed: int) -> None:
    rng = random.Random(seed)
    listed = [f"t{i % 7}.tar/{i}" for i in range(400)]
    shards = [
        [f"t{i % 7}.tar/{i}" for i in (rng.randrange(600) for _ in range(150))] for _ in range(4)
    ]
    rejected = [f"t{i % 7}.tar/{i}" for i in (rng.randrange(600) for _ in range(50))]
    counted = tally(tmp_path, listed)
    for ids in shards:
        counted.add(ids)
    counted.add_rejected(rejected)
    found = collections.Counter(image_id for ids in shards for image_id in ids)
    assert counted.num_found == found.total()
    assert counted.num_extra == sum(n for i, n in found.items() if i not in listed)
    assert counted.num_repeated == found.total() - len(found)
    gone = [i for i in listed if i not in found]
    assert counted.num_rejected == len(set(gone) & set(rejected))
    assert counted.missing_names(1000) == [i for i in gone if i not in rejected]
    assert counted.num_missing == len(counted.missing_names(1000))


def test_a_count_does_not_run_over(tmp_path: pathlib.Path) -> None:
    counted = tally(tmp_path, LISTED)
    for _ in range(3):
        counted.add(["a.tar/0"] * 128)
    assert counted.num_missing == 5 and counted.num_repeated == 254  # a count ends at 255
    np.testing.assert_equal(counted.num_found, 384)
