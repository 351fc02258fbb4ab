"""The lists of distractors: keys and full ids, the line of what is wrong, absent and repeated ids."""

import collections
import gzip
import pathlib
import random

import numpy as np
import pytest
from etils import epath

from ilias_jax.dataset import id_lists
from ilias_jax.dataset.id_lists import (
    IdList,
    absent_distractors,
    key_of,
    read_id_list,
    repeated_ids,
)
from ilias_jax.errors import UserError

IDS = ["y_000.tar/07", "y_000.tar/a/b", "y_001.tar/08", "y_002.tar/猫"]
HUGGING_FACE = "mini_ilias_yfcc100m-000003.tar/"


def read(folder: pathlib.Path, text: str | bytes, name: str = "m.txt", **options) -> IdList:
    data = text.encode() if isinstance(text, str) else text
    (folder / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return read_id_list(epath.Path(folder / name), **options)


def lines(ids: list[str]) -> str:
    return "".join(f"{image_id}\n" for image_id in ids)


def test_key_of() -> None:
    assert [key_of(i) for i in IDS] == ["07", "a/b", "08", "猫"]
    assert [key_of(i) for i in ("07", "a/b", "odd.jar/3")] == ["07", "a/b", "odd.jar/3"]


@pytest.mark.parametrize("form", ["whole", "key", "mixed"])
def test_images_are_found_by_full_id_or_by_key(tmp_path: pathlib.Path, form: str) -> None:
    listed = {"whole": IDS[:3], "key": [key_of(i) for i in IDS[:3]], "mixed": [IDS[0], "a/b", "08"]}
    found = read(tmp_path, lines(listed[form]))
    assert len(found) == 3
    assert [image_id in found for image_id in IDS] == [True, True, True, False]
    assert len(set(found.find(IDS[:3]).tolist())) == 3
    # A full id names one tar's image; a key is that image in any tar.
    assert ("y_009.tar/07" in found) == (form == "key")
    assert "y_000.tar/a" not in found and "y_000.tar/b" not in found and "" not in found


@pytest.mark.parametrize("form", ["whole", "key"])
def test_by_key_finds_images_in_tars_of_other_names(tmp_path: pathlib.Path, form: str) -> None:
    listed = IDS[:3] if form == "whole" else [key_of(i) for i in IDS[:3]]
    found = read(tmp_path, lines(listed), by_key=True)
    there = [HUGGING_FACE + key_of(image_id) in found for image_id in IDS]
    assert there == [True, True, True, False]
    assert found.names(found.find([HUGGING_FACE + "08"]), 5) == [listed[2]]


def test_many_ids_are_found_as_a_set_finds_them(tmp_path: pathlib.Path, monkeypatch) -> None:
    rng = random.Random(0)
    # No key in two tars: a list with such a key and one of its full ids has two lines for an image.
    ids = [f"t{rng.randrange(30)}.tar/{key}" for key in rng.sample(range(10**7), 5000)]
    listed = [i if rng.random() < 0.5 else key_of(i) for i in ids[:2500]]
    listed = list(dict.fromkeys(listed))
    monkeypatch.setattr(id_lists, "_BLOCK", 997)  # so that blocks end within lines
    found = read(tmp_path, lines(listed), "m.txt.gz")
    expected = [i in set(listed) or key_of(i) in set(listed) for i in ids]
    assert (found.find(ids) >= 0).tolist() == expected and 0 < sum(expected) < len(ids)
    assert len(found) == len(listed)
    wanted = [i for i in ids if i in listed][::7]
    named = found.names(found.find(wanted), 10**6)
    assert named == [i for i in listed if i in set(wanted)]


@pytest.mark.parametrize("name", ["list.txt", "list.txt.gz"])
def test_marks_and_ends_of_other_programs_are_no_part_of_an_id(tmp_path, name) -> None:
    data = "\ufeffa.tar/1\r\n\r\n a.tar/2 \r\n".encode()
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    found = read_id_list(epath.Path(tmp_path / name))
    assert len(found) == 2 and found.find(["a.tar/1", "a.tar/2"]).min() >= 0


def test_the_digest_is_of_the_ids_and_not_of_the_blanks(tmp_path: pathlib.Path) -> None:
    plain = read(tmp_path, lines(IDS))
    other = read(tmp_path, " " + "\r\n\n".join(IDS) + "\r\n", "b.txt.gz")
    assert plain.digest == other.digest
    np.testing.assert_array_equal(plain.hashes, other.hashes)
    assert plain.digest != read(tmp_path, lines(IDS[::-1])).digest
    assert plain.digest != read(tmp_path, lines(IDS[1:])).digest


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"m.txt: no id in the file; expected an id a line; download it again"),
        ("\n  \n", r"m.txt: no id in the file"),
        ("a\nb\n\nb\n", r"m.txt, line 4: 'b' is repeated, first at line 2; download it again"),
        ("a\nb c\n", r"m.txt, line 2: 'b c' is no id; expected one a line"),
        ("\n<!DOCTYPE html>\n", r"m.txt, line 2: '<!DOCTYPE html>' is no id"),
        ("a\nb\0\n", r"m.txt, line 2: 'b\\x00' is no id"),
        (b"a\nb\nc\xff\n", r"m.txt, line 3: not UTF-8 text"),
        (bytes(50), r"m.txt, line 1: '(\\x00)+' is no id"),
        ("a\n" + "b" * 10**6, r"m.txt, line 2: too long for an id"),
    ],
)
def test_a_damaged_list_is_named_with_its_line(
    tmp_path: pathlib.Path, text: str | bytes, message: str, monkeypatch
) -> None:
    for block in (id_lists._BLOCK, 1 << 17):
        monkeypatch.setattr(id_lists, "_BLOCK", block)
        with pytest.raises(UserError, match=message):
            read(tmp_path, text)


def test_a_list_that_is_not_there_is_named(tmp_path: pathlib.Path) -> None:
    with pytest.raises(UserError, match=r"m.txt: no such file; .*download"):
        read_id_list(epath.Path(tmp_path / "m.txt"))


def test_repeats_are_found_across_blocks_and_by_key(tmp_path: pathlib.Path, monkeypatch) -> None:
    monkeypatch.setattr(id_lists, "_BLOCK", 64)
    ids = [f"a.tar/{n}" for n in range(40)]
    with pytest.raises(UserError, match=r"line 41: 'a.tar/7' is repeated, first at line 8;"):
        read(tmp_path, lines([*ids, "a.tar/7"]))
    assert len(read(tmp_path, lines([*ids, "b.tar/7"]))) == 41
    with pytest.raises(UserError, match=r"line 41: the key of 'b.tar/7' is rep.*first at line 8;"):
        read(tmp_path, lines([*ids, "b.tar/7"]), by_key=True)


def test_the_list_of_all_distractors_holds_full_ids(tmp_path: pathlib.Path) -> None:
    assert len(read(tmp_path, lines(IDS), "d.txt.gz", whole_only=True)) == 4
    message = r"d.txt.gz, line 3: '08' is no distractor's id; expected <tar file name>/<key>;"
    with pytest.raises(UserError, match=message):
        read(tmp_path, "a.tar/6\na.tar/7\n08\n", "d.txt.gz", whole_only=True)


@pytest.mark.parametrize("damage", ["cut", "flipped", "text", "empty"])
def test_a_damaged_gzip_is_named(tmp_path: pathlib.Path, damage: str) -> None:
    ids = [f"a.tar/{random.Random(n).random()}" for n in range(3000)]
    data = gzip.compress(lines(ids).encode())
    half = len(data) // 2
    content = {
        "cut": data[:half],
        "flipped": data[:half] + bytes([data[half] ^ 255]) + data[half + 1 :],
        "text": b"<html>not found</html>\n",
        "empty": b"",
    }[damage]
    path = tmp_path / "d.txt.gz"
    path.write_bytes(content)
    wanted = r"no id in the file" if damage == "empty" else r", line \d+: "
    with pytest.raises(UserError, match=rf"d.txt.gz.*{wanted}.*download it again"):
        read_id_list(epath.Path(path))


@pytest.mark.parametrize("block", [1, 7, 2**24])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("last", [True, False])
def test_finds_what_is_not_there_and_counts_lines(
    block: int, end: str, last: bool, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(id_lists, "_BLOCK", block)
    path = tmp_path / "ids.txt.gz"
    lines = [f"{n % 3}.tar/é{n}" for n in range(50)]
    path.write_bytes(gzip.compress((end.join(lines) + end * last).encode()))
    wanted = {"0.tar/é0", "1.tar/é49", "2.tar/é1", "0.tar", "x/\ud800"}
    assert absent_distractors(path, wanted) == ({"2.tar/é1", "0.tar", "x/\ud800"}, 50)


def test_a_missing_or_damaged_file_is_named(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "ids.txt.gz"
    with pytest.raises(UserError, match=r"ids.txt.gz: no such file; .*download"):
        absent_distractors(path, set())
    whole = gzip.compress(b"0.tar/1\n" * 1000)
    for data in (whole[:-9], b"0.tar/1\n", whole[:15] + b"\xff" * 9 + whole[24:]):
        path.write_bytes(data)
        with pytest.raises(UserError, match=r"ids.txt.gz, line \d+: damaged gzip"):
            absent_distractors(path, set())


def find_repeated(*lists):
    return repeated_ids([lambda ids=ids: list(ids) for ids in lists])


@pytest.mark.parametrize(
    ("lists", "repeated"),
    [
        ([["a.tar/1", "a.tar/2"], ["b.tar/1"]], []),
        ([["a.tar/1", "a.tar/1"], ["b.tar/1"]], ["a.tar/1"]),
        ([["a.tar/1"], ["b.tar/1", "a.tar/1"]], ["a.tar/1"]),
        (
            [["a.tar/1", "c.tar/1", "c.tar/1"], ["a.tar/1"], ["a.tar/1"]],
            ["c.tar/1", *2 * ["a.tar/1"]],
        ),
        ([["plain"], ["plain"]], ["plain"]),
        ([[], []], []),
    ],
)
def test_names_every_repetition(lists, repeated):
    assert find_repeated(*lists) == repeated


def test_equals_a_count_of_all_ids():
    rng = np.random.default_rng(0)
    for _ in range(50):
        lists = [
            [f"{rng.integers(3)}.tar/{rng.integers(9)}" for _ in range(rng.integers(6))]
            for _ in range(rng.integers(1, 4))
        ]
        counts = collections.Counter(name for ids in lists for name in ids)
        expected = [name for name, count in counts.items() for _ in range(count - 1)]
        assert sorted(find_repeated(*lists)) == sorted(expected), lists


def test_lists_that_share_no_folder_are_read_once():
    reads = []

    def read(name):
        reads.append(name)
        return [f"{name}.tar/0"]

    repeated_ids([lambda name=name: read(name) for name in "abc"])
    assert reads == ["a", "b", "c"]
